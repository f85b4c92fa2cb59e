"""The child process that computes for one device.

`python -m agent.edges.gpu.matrix_worker PARENT_PID ENGINE COLUMNS RESERVE_BYTES`

A driver that hangs, and a library that crashes or takes long to load, cost a child and nothing else. ENGINE is `torch`
or `numpy`; which GPU it sees is for CUDA_VISIBLE_DEVICES to say. A line on stdin is a question, a line on stdout its
answer, all JSON; the first line is what may be filled.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import BinaryIO

import msgspec

from agent.edges.gpu.matrix import Answer, Arrays
from agent.edges.gpu.matrix_lines import Commit, Open, Reply, Reread
from agent.edges.gpu.worker import die_with, take_stdout


def arrays_of(engine: str) -> Arrays:
    """The library is imported here and nowhere else."""
    if engine == "torch":
        from agent.edges.gpu.matrix_torch import TorchArrays  # noqa: PLC0415  (an extra, and seconds of loading)

        return TorchArrays()
    from agent.edges.gpu.matrix_numpy import NumpyArrays  # noqa: PLC0415  (an extra)

    return NumpyArrays()


def serve(engine: str, columns: int, reserve_bytes: int, questions: Iterable[bytes], replies: BinaryIO) -> None:
    """Until they end."""
    decoder = msgspec.json.Decoder(Commit | Reread | Open)
    answer = Answer(arrays_of(engine), columns, reserve_bytes)
    answer.warm_up()
    _say(replies, Reply(free_bytes=answer.free_bytes))
    for line in questions:
        match decoder.decode(line):
            case Commit(seed=seed, work=work):
                _say(replies, Reply(roots=(answer.commit(seed, work),)))
            case Reread(seed=seed):
                _say(replies, Reply(roots=answer.reread(seed)))
            case Open(rows=rows):
                _say(replies, Reply(rows=answer.open(rows)))


def _say(replies: BinaryIO, reply: Reply) -> None:
    replies.write(msgspec.json.encode(reply) + b"\n")
    replies.flush()


def main(argv: list[str]) -> None:
    die_with(int(argv[1]))
    replies = take_stdout()
    try:
        serve(argv[2], int(argv[3]), int(argv[4]), sys.stdin.buffer, replies)
    except Exception as error:  # noqa: BLE001  (whatever a library raises is told to the parent, and this is its end)
        _say(replies, Reply(error=f"{type(error).__name__}: {error}"))
    os._exit(0)  # no destructors of a vendor library


if __name__ == "__main__":
    main(sys.argv)
