"""`python -m tests.soak.watched FILE ARGUMENTS…`: gpu-agent with these arguments. SIGUSR1 has it write into FILE what
only the process itself can count. `SOAK_LEAK_KIB` has it keep so much more each time: then the soak must find a leak.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
from pathlib import Path

from agent.__main__ import main

_kept: list[bytes] = []
LEAK_BYTES = int(os.environ.get("SOAK_LEAK_KIB", "0")) << 10


def _tell(*_signal: object) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # it is starting or ending
        return
    _kept.append(b"\1" * LEAK_BYTES)
    told = {"tasks": len(asyncio.all_tasks(loop)), "objects": len(gc.get_objects())}
    draft = _file.with_suffix(".draft")
    with contextlib.suppress(FileNotFoundError):  # a second signal came in the middle, and has told
        draft.write_text(json.dumps(told))
        draft.replace(_file)


if __name__ == "__main__":
    _file = Path(sys.argv.pop(1))
    signal.signal(signal.SIGUSR1, _tell)
    main()
