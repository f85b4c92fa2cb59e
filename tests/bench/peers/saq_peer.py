"""SAQ on Redis; its pause of 0.5 s between two looks at a result is set to 5 ms."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from load import measured
from saq import Queue

queue = Queue.from_url(os.environ["REDIS_URL"])


async def noop(ctx):
    return None


settings = {"queue": queue, "functions": [noop], "concurrency": int(os.environ["IN_FLIGHT"])}


async def main(in_flight: int, tasks: int) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "saq", "saq_peer.settings"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await queue.connect()
        await asyncio.sleep(3)  # its first sweep fails jobs that it meets between two states
        await measured(lambda: queue.apply("noop", poll_interval=0.005), worker.pid, in_flight, tasks)
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    asyncio.run(main(int(os.environ["IN_FLIGHT"]), int(sys.argv[1])))
