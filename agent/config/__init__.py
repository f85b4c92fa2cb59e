"""Configuration: typed sections, four sources, every fault at once. Start reading at `schema`."""

from agent.config.loading import Loaded, load, load_with_origins
from agent.config.schema import Config
from agent.config.sections.machine import ContainerRuntime, GpuConfig, SandboxBackend, SandboxConfig
from agent.config.sections.node import CoordinatorConfig, IdentityConfig, NodeConfig, TransportChoice
from agent.config.sections.owner import OwnerConfig, Running
from agent.config.sections.telling import ControlConfig, LogFormat, LogLevel, LogsConfig, MetricsConfig, PageConfig
from agent.config.sections.work import EngineKind, EngineProfile, ExecConfig, ModelConfig, PoolConfig, ProofConfig

__all__ = [
    "Config",
    "ContainerRuntime",
    "ControlConfig",
    "CoordinatorConfig",
    "EngineKind",
    "EngineProfile",
    "ExecConfig",
    "GpuConfig",
    "IdentityConfig",
    "Loaded",
    "LogFormat",
    "LogLevel",
    "LogsConfig",
    "MetricsConfig",
    "ModelConfig",
    "NodeConfig",
    "OwnerConfig",
    "PageConfig",
    "PoolConfig",
    "ProofConfig",
    "Running",
    "SandboxBackend",
    "SandboxConfig",
    "TransportChoice",
    "load",
    "load_with_origins",
]
