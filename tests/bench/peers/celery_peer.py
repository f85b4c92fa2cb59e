"""Celery on Redis: one worker process with a thread for each task in flight.

Results are taken in the order of their tasks by one thread: Celery's client mixes up many that wait at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque

from celery import Celery
from load import Meter

URL = os.environ["REDIS_URL"]
app = Celery("celery_peer", broker=URL, backend=URL)


@app.task
def noop():
    return None


def customers(in_flight: int, tasks: int) -> list[float]:
    waiting, waits = deque(), []
    for number in range(tasks + in_flight):
        if number >= in_flight:
            began, result = waiting.popleft()
            result.get(timeout=30)
            waits.append(time.perf_counter() - began)
        if number < tasks:
            waiting.append((time.perf_counter(), noop.apply_async()))
    return waits


def main(in_flight: int, tasks: int) -> None:
    command = [sys.executable, "-m", "celery", "-A", "celery_peer", "worker", "--pool", "threads", "-c", str(in_flight)]
    worker = subprocess.Popen([*command, "--loglevel", "ERROR"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        customers(in_flight, max(in_flight, tasks // 10))
        meter = Meter(worker.pid)
        meter.tell(customers(in_flight, max(in_flight, tasks)))
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    # The worker imports this file as celery_peer: so must the customer, for the task's name to be the same.
    import celery_peer

    celery_peer.main(int(os.environ["IN_FLIGHT"]), int(sys.argv[1]))
