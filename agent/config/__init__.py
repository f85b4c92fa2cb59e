"""Configuration: typed sections, four sources, every fault at once. Start reading at `schema`."""

from agent.config.loading import Loaded, load, load_with_origins
from agent.config.owner import OwnerConfig, Running
from agent.config.schema import (
    Config,
    ControlConfig,
    CoordinatorConfig,
    EngineKind,
    EngineProfile,
    GpuConfig,
    IdentityConfig,
    LogFormat,
    LogLevel,
    LogsConfig,
    ModelConfig,
    NodeConfig,
    PoolConfig,
    ProofConfig,
    SandboxBackend,
    SandboxConfig,
    TransportChoice,
)

__all__ = [
    "Config",
    "ControlConfig",
    "CoordinatorConfig",
    "EngineKind",
    "EngineProfile",
    "GpuConfig",
    "IdentityConfig",
    "Loaded",
    "LogFormat",
    "LogLevel",
    "LogsConfig",
    "ModelConfig",
    "NodeConfig",
    "OwnerConfig",
    "PoolConfig",
    "ProofConfig",
    "Running",
    "SandboxBackend",
    "SandboxConfig",
    "TransportChoice",
    "load",
    "load_with_origins",
]
