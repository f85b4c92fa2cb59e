"""Every way in which an engine ends is told in plain words."""

from __future__ import annotations

import signal

import pytest

from agent.edges.engines.exits import explain, last_lines
from agent.ports import ExitKind, SandboxExit


def ended(kind: ExitKind = ExitKind.EXITED, code: int = 1, detail: str = "exit status 1") -> SandboxExit:
    return SandboxExit(kind=kind, code=code, detail=detail)


@pytest.mark.parametrize(
    ("end", "stderr", "words"),
    [
        (ended(ExitKind.SIGNALLED, signal.SIGILL, "SIGILL"), "", "this CPU lacks instructions"),
        (ended(ExitKind.SIGNALLED, signal.SIGKILL, "SIGKILL: it was killed"), "", "SIGKILL: it was killed"),
        (ended(ExitKind.OUT_OF_MEMORY, 0, "used more memory than allowed"), "", "engine_memory_mib"),
        (ended(), "0.00.1 E srv load_model: failed to load model, '/model/x.gguf'", "could not load the model"),
        (ended(), "error loading model: unknown model architecture: 'mamba9'", "the model architecture mamba9"),
        (ended(), "gguf_init_from_file_impl: invalid magic characters: 'oops'", "not a GGUF model"),
        (
            ended(code=127),
            "llama-server: error while loading shared libraries: libgomp.so.1: cannot open shared object file",
            "the library libgomp.so.1 is missing",
        ),
        (ended(ExitKind.SIGNALLED, signal.SIGABRT, "SIGABRT"), "terminate: std::bad_alloc", "not enough memory"),
        (ended(), "error: invalid argument: --frobnicate", "does not know the argument --frobnicate"),
    ],
)
def test_an_end_is_explained(end: SandboxExit, stderr: str, words: str) -> None:
    told = explain(end, stderr)
    assert words in told
    assert told.startswith("the engine ended: ")


def test_only_the_last_lines_are_kept_and_they_are_bounded() -> None:
    stderr = "\n".join(f"0.00.0{n} E line {n} " + "x" * 500 for n in range(9)) + "\n\n"
    last = last_lines(stderr)
    assert [part[:6] for part in last.split(" | ")] == ["line 6", "line 7", "line 8"]
    assert len(last) < 500


def test_an_engine_that_said_nothing_is_explained_all_the_same() -> None:
    assert explain(ended(), "") == "the engine ended: exit status 1"
