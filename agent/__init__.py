"""gpu-agent: the provider-side node agent of a decentralized GPU network."""

__version__ = "0.1.0"
