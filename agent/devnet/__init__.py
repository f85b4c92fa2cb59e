"""The embedded reference coordinator. Shares only agent.core with the agent."""
