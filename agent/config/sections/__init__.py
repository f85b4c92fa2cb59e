"""One file for sections that belong together; `agent.config.schema` puts them into one value."""
