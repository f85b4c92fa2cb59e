"""What the stages need of the world, as narrow interfaces. Edges implement them; tests have fakes of them."""

from agent.ports.attest import MatrixEngine
from agent.ports.engines import (
    Artifact,
    EngineOutput,
    EnginePool,
    Fingerprints,
    Finished,
    Incoming,
    Piece,
    Printed,
    Ran,
    Stock,
    Vectors,
)
from agent.ports.link import Greeter, Link
from agent.ports.machine import Clock, EngineMemory, Findings, GpuProbe, HostFacts, HostProbe, OwnerView, Pauses
from agent.ports.replay import Calibrations, Replayer
from agent.ports.sandbox import ExitKind, Limits, Sandbox, SandboxExit, SandboxHandle, SandboxSpec, Used
from agent.ports.storage import (
    Artifacts,
    Delivered,
    Identity,
    Ledger,
    Outbox,
    OutboxRow,
    Proofs,
    Room,
    Transcripts,
)

__all__ = [
    "Artifact",
    "Artifacts",
    "Calibrations",
    "Clock",
    "Delivered",
    "EngineMemory",
    "EngineOutput",
    "EnginePool",
    "ExitKind",
    "Findings",
    "Fingerprints",
    "Finished",
    "GpuProbe",
    "Greeter",
    "HostFacts",
    "HostProbe",
    "Identity",
    "Incoming",
    "Ledger",
    "Limits",
    "Link",
    "MatrixEngine",
    "Outbox",
    "OutboxRow",
    "OwnerView",
    "Pauses",
    "Piece",
    "Printed",
    "Proofs",
    "Ran",
    "Replayer",
    "Room",
    "Sandbox",
    "SandboxExit",
    "SandboxHandle",
    "SandboxSpec",
    "Stock",
    "Transcripts",
    "Used",
    "Vectors",
]
