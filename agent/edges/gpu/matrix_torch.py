"""Matrices on the first GPU that CUDA shows to this process, with torch.

8-bit products run on tensor cores through `torch._int_mm` (cuBLASLt; from compute capability 7.5 on). Where that is not
to be had, 32-bit floats multiply pieces whose sums they hold exactly, with TF32 off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from agent.core.attest.sizing import SPARE_BYTES

PIECE = 1024
"""Longest sum of products of bytes that 32-bit floats hold exactly: 1024 · 128 · 128 = 2^24."""
LEAST_ROWS = 32
"""`torch._int_mm` takes no fewer than 17."""


class TorchArrays:
    """Implements matrix.Arrays with torch, on `cuda` or, to be tried, on `cpu`."""

    int8 = torch.int8
    chunk_rows = 8192
    spare_bytes = SPARE_BYTES

    def __init__(self, device: str = "cuda") -> None:
        """Raises RuntimeError where CUDA finds no GPU."""
        self._device = torch.device(device)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.empty(1, device=self._device)
        self.exact = _multiplies_bytes(self._device)
        """Whether 8-bit products are to be had; else floats stand in."""

    def free_bytes(self) -> int:
        if self._device.type == "cpu":
            return SPARE_BYTES + (64 << 20)
        free: int = torch.cuda.mem_get_info(self._device)[0]
        return free

    def count(self, first: int, end: int) -> Any:
        return torch.arange(first, end, dtype=torch.int32, device=self._device)

    def factor(self, entries: Any) -> Any:
        return entries if self.exact else [_floats(entries, at).t() for at in range(0, entries.shape[1], PIECE)]

    def product(self, rows: Any, factor: Any) -> Any:
        if self.exact:
            missing = LEAST_ROWS - rows.shape[0]
            padded = torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows.contiguous()
            return torch._int_mm(padded, factor.t())[: rows.shape[0]]
        total = torch.zeros(rows.shape[0], factor[0].shape[1], dtype=torch.int32, device=self._device)
        for number, piece in enumerate(factor):
            total += (_floats(rows, number * PIECE) @ piece).to(torch.int32)
        return total

    def store(self, size_bytes: int) -> Any:
        return torch.zeros(size_bytes, dtype=torch.int8, device=self._device)

    def raw(self, parts: Sequence[Any]) -> bytes:
        if not parts:
            return b""
        whole: bytes = torch.cat([part.reshape(-1) for part in parts]).cpu().numpy().tobytes()
        return whole


def _multiplies_bytes(device: torch.device) -> bool:
    entries = torch.ones(LEAST_ROWS, 64, dtype=torch.int8, device=device)
    try:
        return bool((torch._int_mm(entries, entries.t()) == 64).all())
    except RuntimeError:  # of cards and builds that have none
        return False


def _floats(entries: Any, at: int) -> Any:
    return entries[:, at : at + PIECE].to(torch.float32)
