"""Cheaper files of the same weights, made by llama.cpp's own quantiser, which comes with the engine's wheel.

`python -m agent.edges.models.quantised SOURCE TARGET KIND` runs it in a process of its own, since it writes to
stderr as it likes.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys
from pathlib import Path

from agent.core.errors import ModelError
from agent.core.text import plain
from agent.edges.engines.launch import find_llama_server

KINDS = {"Q4_0": 2, "Q8_0": 7, "Q5_1": 9, "Q2_K": 10}
"""`llama_ftype` of llama.h. Rows that are no multiple of 256 wide get the quantiser's own fallback for Q2_K: Q4_0."""
_LIBRARIES = ("libgomp.so.1", "libggml-base.so.0", "libggml.so.0", "libllama.so.0")
_SPARE_BYTES = 1024


class _Parameters(ctypes.Structure):
    """The start of `llama_model_quantize_params`, which has kept its order since 2024; what follows stays as it is."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int32),
        ("output_tensor_type", ctypes.c_int32),
        ("token_embedding_type", ctypes.c_int32),
        ("allow_requantize", ctypes.c_bool),
        ("rest", ctypes.c_char * _SPARE_BYTES),
    )


def quantised(source: Path, kind: str, folder: Path) -> Path:
    """`source` requantised to `kind`, made once: named by the digests of the source and of the quantiser.

    Takes seconds. Raises ModelError.
    """
    made_of = hashlib.sha256((_libraries()[-1]).read_bytes() + source.read_bytes()).hexdigest()[:16]
    target = folder / f"{source.stem}-{made_of}-{kind.lower()}.gguf"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(".partial")
        command = [sys.executable, "-m", "agent.edges.models.quantised", str(source), str(draft), kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            words = plain(done.stderr[-500:], 500)
            raise ModelError(f"{kind} of {source.name} could not be made: {words}", remedy="Is there room on the disk?")
        draft.chmod(0o644)  # the sandbox's user reads it
        draft.replace(target)
    return target


def _libraries() -> list[Path]:
    folder = find_llama_server("auto").parent.parent / "lib"
    return [folder / name for name in _LIBRARIES]


def _quantise(source: str, target: str, kind: str) -> int:
    *needed, last = _libraries()
    for library in needed:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    llama = ctypes.CDLL(str(last))
    llama.llama_model_quantize_default_params.restype = _Parameters
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Parameters)]
    llama.llama_model_quantize.restype = ctypes.c_uint32
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize = KINDS[kind], True
    return int(llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)))


if __name__ == "__main__":
    sys.exit(_quantise(*sys.argv[1:]))
