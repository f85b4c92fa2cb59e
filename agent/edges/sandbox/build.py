"""The sandbox that the configuration asks for."""

from __future__ import annotations

from pathlib import Path

from agent.config.schema import SandboxBackend, SandboxConfig
from agent.edges.sandbox.bubblewrap import Bubblewrap, no_gpus
from agent.edges.sandbox.gpus import PlaceOf
from agent.edges.sandbox.oci.backend import Oci
from agent.edges.sandbox.oci.facts import EngineName

Backend = Bubblewrap | Oci


def build_sandbox(settings: SandboxConfig, runtime_dir: Path, place_of: PlaceOf = no_gpus) -> Backend:
    """Starts nothing and looks at nothing yet. `place_of` tells bubblewrap where a GPU is; engines know by CDI."""
    if settings.backend is SandboxBackend.BUBBLEWRAP:
        return Bubblewrap(runtime_dir, bwrap=settings.bwrap, place_of=place_of)
    return Oci(runtime_dir, EngineName(settings.backend), runtime=settings.runtime)
