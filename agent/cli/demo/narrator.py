"""The agent's log in plain words, as it happens."""

from __future__ import annotations

from agent.cli.demo.daemon import Line
from agent.cli.demo.screen import Screen


class Narrator:
    """Says what newcomers want to know; warnings and errors always, the rest is in the log file."""

    def __init__(self, screen: Screen, name: str = "agent") -> None:
        self._screen = screen
        self._name = name
        self.quiet = False
        """While words are streamed, only trouble is told."""

    def hear(self, line: Line) -> None:
        """One log line."""
        event = line.get("event", "")
        if line.get("level") in ("error", "critical", "warning"):
            detail = line.get("detail") or line.get("fault") or ""
            self._screen.fact(self._name, f"{event}: {detail}", "bad")
        elif not self.quiet:
            self._tell(event, line)

    def _tell(self, event: str, line: Line) -> None:
        match event:
            case "gpu.driver" if line.get("fault"):
                self._screen.fact("probed", "no NVIDIA GPU in use here: the work runs in the CPU pool", "note")
            case "gpu.seen":
                self._screen.fact("probed", f"{line.get('name')} ({line.get('uuid')})")
            case "model.verified":
                self._screen.fact("verified", f"model {line.get('model')}, manifest digest {line.get('digest')}")
            case "node.enrolled":
                self._screen.fact("enrolled", f"as {line.get('node')}, with a one-time token; coordinator's key pinned")
            case "session.opened":
                self._screen.fact("advertised", f"session open, a heartbeat every {line.get('beat_s'):.0f} s")
            case "engine.ready":
                seconds = line.get("took_ms", 0) / 1000
                self._screen.fact("ready", f"{line.get('engine')} after a one-token canary, {seconds:.1f} s")
            case _:
                pass
