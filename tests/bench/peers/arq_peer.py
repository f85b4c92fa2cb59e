"""arq: polls Redis; its pauses of 0.5 s are set to 10 ms, else they would be all that is measured."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from arq import create_pool
from arq.connections import RedisSettings
from load import measured

REDIS = RedisSettings.from_dsn(os.environ["REDIS_URL"])


async def noop(ctx):
    return None


class WorkerSettings:
    functions = [noop]  # noqa: RUF012  (arq's own form)
    redis_settings = REDIS
    max_jobs = int(os.environ["IN_FLIGHT"])
    poll_delay = 0.01


async def main(in_flight: int, tasks: int) -> None:
    worker = subprocess.Popen([sys.executable, "-m", "arq", "arq_peer.WorkerSettings"], stderr=subprocess.DEVNULL)
    try:
        pool = await create_pool(REDIS)

        async def ask():
            job = await pool.enqueue_job("noop")
            return await job.result(timeout=30, poll_delay=0.005)

        await measured(ask, worker.pid, in_flight, tasks)
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    asyncio.run(main(int(os.environ["IN_FLIGHT"]), int(sys.argv[1])))
