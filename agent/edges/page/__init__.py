"""The owner's page: `gpu-agent status` in a browser of this machine. It shows, and can change nothing.

`server` serves it, `screen` says what stands on it, `markup` makes every text harmless. Imported only while it is on.
"""

from agent.edges.page.server import PageServer

__all__ = ["PageServer"]
