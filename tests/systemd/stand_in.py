"""A service that does nothing but speak to systemd through the agent's own edge, to prove box and edge together."""

from __future__ import annotations

import asyncio
import os
import signal

from agent.edges.systemd import ServiceManager, keep_alive, watchdog_period_s


class WallClock:
    """Real time."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def main() -> None:
    manager = ServiceManager.of_environment()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    faults: list[str] = []
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: (manager.reloading(), manager.ready("reloaded")))
    loop.add_signal_handler(signal.SIGUSR1, faults.append, "told to stand still")
    period_s = watchdog_period_s()
    assert period_s is not None
    feeding = asyncio.create_task(keep_alive(manager, period_s, WallClock(), lambda: tuple(faults)))
    manager.ready(f"standing in, pid {os.getpid()}")
    await stop.wait()
    feeding.cancel()
    manager.stopping("stopping")


if __name__ == "__main__":
    asyncio.run(main())
