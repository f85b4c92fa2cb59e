"""Ends this agent's containers when the agent dies without a word.

A container is the child of its engine, not ours, and outlives us. So a small process of ours waits at a pipe that only
we hold open; when we are gone, however that came about, it removes what is labelled as ours and ends. A program inside
cannot reach it. Only a blow that hits both, such as the kill of a whole service, leaves containers to the next start.
"""

from __future__ import annotations

import os
import subprocess
import weakref

from agent.edges.sandbox.oci.command import Command

# Signals that are meant for the agent's process group or service must not end it before its work is done. A container
# that was about to start when we died may come late: so a second look. It is nobody's child, so that nobody need bury
# it.
_SCRIPT = """
exec 3<&0
{
  trap '' HUP INT QUIT TERM PIPE
  label=$1
  removal=$2
  shift 2
  while read -r _; do :; done
  for look in 1 2; do
    found=$("$@" ps --all --quiet --filter "label=$label")
    [ -z "$found" ] || "$@" $removal $found
    [ $look = 2 ] || sleep 5
  done
} <&3 3<&- &
"""


class Keeper:
    """One process for all containers of one run of the agent."""

    def __init__(self, command: Command, label: str) -> None:
        """Starts it; blocks for a moment. `label` is what the containers of this run have and no others. Raises
        OSError."""
        out, self._held = os.pipe()
        weakref.finalize(self, os.close, self._held)
        try:
            subprocess.run(
                ["/bin/sh", "-c", _SCRIPT, "gpu-agent-keeper", label, " ".join(command.removal), *command.words],
                stdin=out,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=command.environment,
                cwd="/",
                start_new_session=True,
                check=False,
            )
        finally:
            os.close(out)

    @property
    def alive(self) -> bool:
        """Whether it still waits: then it reads, and drops, what is written."""
        try:
            os.write(self._held, b"\n")
        except BrokenPipeError:
            return False
        return True
