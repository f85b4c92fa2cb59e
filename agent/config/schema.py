"""Every section and key of the configuration: type, default, bounds and one sentence.

The sentences become the comments of `config.example.toml`; the bounds are what `loading` enforces.
A key that needs a unit carries it in its name (`_s` seconds, `_mib` mebibytes). Each section stands in `sections`.
"""

from __future__ import annotations

from pathlib import Path

from agent.config.sections.machine import GpuConfig, SandboxConfig
from agent.config.sections.node import CoordinatorConfig, IdentityConfig, NodeConfig
from agent.config.sections.owner import OwnerConfig
from agent.config.sections.telling import ControlConfig, LogsConfig, MetricsConfig, PageConfig
from agent.config.sections.work import ExecConfig, ModelConfig, PoolConfig, ProofConfig
from agent.core.model import Value


class Config(Value):
    """Everything an owner can set. `Config()` is valid: a node that only looks at itself."""

    node: NodeConfig = NodeConfig()
    coordinator: CoordinatorConfig = CoordinatorConfig()
    identity: IdentityConfig = IdentityConfig()
    gpu: GpuConfig = GpuConfig()
    sandbox: SandboxConfig = SandboxConfig()
    models: tuple[ModelConfig, ...] = ()
    pools: tuple[PoolConfig, ...] = ()
    proof: ProofConfig = ProofConfig()
    exec: ExecConfig = ExecConfig()
    owner: OwnerConfig = OwnerConfig()
    logs: LogsConfig = LogsConfig()
    control: ControlConfig = ControlConfig()
    metrics: MetricsConfig = MetricsConfig()
    page: PageConfig = PageConfig()

    @property
    def key_file(self) -> Path:
        """Where the node's key is."""
        return self.identity.key_file or self.node.state_dir / "node.key"

    @property
    def control_socket(self) -> Path:
        """Where the daemon listens for `gpu-agent status`."""
        return self.control.socket or self.node.runtime_dir / "control.sock"

    def model_named(self, name: str) -> ModelConfig:
        """The model that a pool refers to; `checks` has made sure that there is one."""
        return next(model for model in self.models if model.name == name)
