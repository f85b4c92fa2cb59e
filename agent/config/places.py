"""Where things are when nobody says: systemd's directories first, then root's, then the user's (XDG)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.core.model import Value

NO_HOME = "/nonexistent"
"""For a user without $HOME: nothing can be written there, and the error says where it was tried."""


class Place(Value):
    """A default path and why it is the default."""

    path: Path
    why: str


class Places(Value):
    """Defaults of this process."""

    state_dir: Place
    cache_dir: Place
    runtime_dir: Place
    config_file: Place
    credentials_dir: Path | None = None


def places(environ: Mapping[str, str], uid: int) -> Places:
    """Choose by environment and user id. Touches nothing."""
    home = Path(environ.get("HOME") or NO_HOME)
    config = _xdg(environ, "XDG_CONFIG_HOME", home / ".config") / "gpu-agent/config.toml"
    credentials = environ.get("CREDENTIALS_DIRECTORY")

    def choose(systemd: str, system: str, xdg: str, user: Path) -> Place:
        if given := environ.get(systemd):
            return Place(path=Path(given.split(":")[0]), why=f"${systemd}")
        if uid == 0:
            return Place(path=Path(system), why="root")
        return Place(path=_xdg(environ, xdg, user) / "gpu-agent", why="user")

    return Places(
        state_dir=choose("STATE_DIRECTORY", "/var/lib/gpu-agent", "XDG_STATE_HOME", home / ".local/state"),
        cache_dir=choose("CACHE_DIRECTORY", "/var/cache/gpu-agent", "XDG_CACHE_HOME", home / ".cache"),
        runtime_dir=choose("RUNTIME_DIRECTORY", "/run/gpu-agent", "XDG_RUNTIME_DIR", home / ".cache/gpu-agent-run"),
        config_file=Place(path=Path("/etc/gpu-agent/config.toml") if uid == 0 else config, why="default place"),
        credentials_dir=Path(credentials) if credentials else None,
    )


def _xdg(environ: Mapping[str, str], name: str, default: Path) -> Path:
    """The XDG base directory specification: a relative path is to be ignored."""
    given = environ.get(name, "")
    return Path(given) if given.startswith("/") else default
