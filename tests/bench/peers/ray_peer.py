"""Ray: one asynchronous actor. Nothing is durable."""

from __future__ import annotations

import asyncio
import os
import sys

import ray
from load import measured


@ray.remote(num_cpus=1)
class Worker:
    async def pid(self):
        return os.getpid()

    async def noop(self):
        return None


async def main(in_flight: int, tasks: int) -> None:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        actor = Worker.options(max_concurrency=in_flight).remote()

        async def ask():
            return await actor.noop.remote()

        await measured(ask, await actor.pid.remote(), in_flight, tasks)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    asyncio.run(main(int(os.environ["IN_FLIGHT"]), int(sys.argv[1])))
