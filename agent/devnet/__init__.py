"""The embedded coordinator: the reference implementation of the protocol (docs/coordinator.md).

It shares only `agent.core` with the agent: `core/` decides, the files beside it touch the disk and the network.
"""
