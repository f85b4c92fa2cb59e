"""Records what the `toploc` package makes of made-up hidden states, and how far it finds others from that.

In an environment of its own, for the two take 5 GB (recorded on Linux x86-64 with Python 3.11):

    uv venv /tmp/toploc && uv pip install --python /tmp/toploc/bin/python toploc==0.1.6 torch==2.5.1 'numpy<2.3'
    /tmp/toploc/bin/python tests/golden/toploc/make.py

The states are computed from a seed, so the file holds none. Where the 128th and the 129th magnitude are equal, which of
them counts is up to torch's heap (and another on a GPU): seeds where that happens are passed over.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import toploc
import torch

sys.path.insert(0, str(Path(__file__).parent))
from states import made_up, moved

VECTORS = Path(__file__).parent / "vectors.json"
BATCH, TOP = 32, 128
# Rows and width. From 2,048 on places pass the prime, and from 4,096 on most do: "folded" is where they collide.
CASES = {
    "one token": (1, 640),
    "a short chunk": (7, 640),
    "two chunks and a part": (70, 640),
    "narrow": (32, 64),
    "folded": (32, 4096),
    "a chunk and a part": (40, 5120),
    "wide": (32, 8192),
}


def tensor(bits: list[int], width: int) -> torch.Tensor:
    return torch.tensor(bits, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).view(-1, width)


def ties(bits: list[int]) -> bool:
    ordered = sorted((number & 0x7FFF for number in bits), reverse=True)
    return len(ordered) > TOP and ordered[TOP - 1] == ordered[TOP]


def figures(bits: list[int], width: int, proofs: list[bytes]) -> list[list[float]]:
    found = toploc.verify_proofs_bytes(tensor(bits, width), proofs, BATCH, TOP, skip_prefill=True)
    return [[one.exp_mismatches, one.mant_err_mean, one.mant_err_median] for one in found]


def vector(name: str, rows: int, width: int) -> dict:
    seed, batch = 0, BATCH * width
    while True:
        seed += 1
        bits = made_up(seed, rows * width)
        other = moved(bits, seed)
        if any(ties(values[at : at + batch]) for values in (bits, other) for at in range(0, len(bits), batch)):
            continue
        proofs = toploc.build_proofs_bytes(list(tensor(bits, width)), BATCH, TOP, skip_prefill=True)
        if name != "folded" or proofs[0][:2] != (65_497).to_bytes(2):
            break
    return {
        "name": name,
        "rows": rows,
        "width": width,
        "seed": seed,
        "imprints": [proof.hex() for proof in proofs],
        "same": figures(bits, width, proofs),
        "moved": figures(other, width, proofs),
    }


def rounding() -> list[list[str]]:
    """Bits of finite float32 and of the bfloat16 that torch makes of them: any, and around the middle between two."""
    chance = torch.Generator().manual_seed(7)
    some = torch.randint(-(2**31), 2**31 - 1, (80,), generator=chance, dtype=torch.int64).tolist()
    edges = [0, 1, -(2**31), 0x8000, 0x18000, 0x3F808000, 0x3F818000, 0x3F817FFF, 0x3F808001, 0x7F7F0000, 0x7F7F7FFF]
    singles = torch.tensor([*some, *edges], dtype=torch.int64).to(torch.int32).view(torch.float32)
    halves = singles.to(torch.bfloat16)
    singles, halves = singles[halves.isfinite()], halves[halves.isfinite()]
    pairs = zip(singles.view(torch.int32).tolist(), halves.view(torch.uint16).tolist(), strict=True)
    return [[f"{single & 0xFFFFFFFF:08x}", f"{half:04x}"] for single, half in pairs]


if __name__ == "__main__":
    # What it makes of float32: the null proof, instead of an error.
    null = toploc.build_proofs_bytes([torch.ones(640) for _ in range(BATCH)], BATCH, TOP, skip_prefill=True)[0]
    found = {
        "made_with": f"toploc 0.1.6, torch {torch.__version__}",
        "vectors": [vector(name, *shape) for name, shape in CASES.items()],
        "rounding": rounding(),
        "null": null.hex(),
    }
    VECTORS.write_text(json.dumps(found, indent=1) + "\n")
