"""The sandbox that the configuration asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from agent.config import SandboxBackend, SandboxConfig
from agent.edges.sandbox.bubblewrap import Bubblewrap, no_gpus
from agent.edges.sandbox.gpus import PlaceOf

if TYPE_CHECKING:
    from agent.edges.sandbox.oci.backend import Oci

Backend: TypeAlias = "Bubblewrap | Oci"


def build_sandbox(settings: SandboxConfig, runtime_dir: Path, place_of: PlaceOf = no_gpus) -> Backend:
    """Starts nothing and looks at nothing yet. `place_of` tells bubblewrap where a GPU is; engines know by CDI."""
    if settings.backend is SandboxBackend.BUBBLEWRAP:
        return Bubblewrap(runtime_dir, bwrap=settings.bwrap, place_of=place_of)
    # Only a node with containers holds what they need.
    from agent.edges.sandbox.oci.backend import Oci  # noqa: PLC0415
    from agent.edges.sandbox.oci.facts import EngineName  # noqa: PLC0415

    return Oci(runtime_dir, EngineName(settings.backend), runtime=settings.runtime)
