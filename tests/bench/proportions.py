"""Models of the proportions of real ones and of random weights, to time an engine with: their text is noise.

No matrix is ever made of floats: Q4_0 blocks (32 weights in 18 bytes) are a constant scale beside random nibbles, and
go to the file as they are made.
"""

from __future__ import annotations

import itertools
import math
import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np

CONTROLS, BYTES = ("<unk>", "<s>", "</s>"), 256
FIRST_WORD = len(CONTROLS) + BYTES
_CONTROL, _NORMAL, _BYTE = 3, 1, 6
_BLOCK_WEIGHTS, _BLOCK_BYTES = 32, 18
_NIBBLE_DEVIATION = 4.6
"""Of whole numbers from -8 to 7, each as likely."""


class Proportions(NamedTuple):
    """What decides how long a token takes, and how long its softmax."""

    name: str
    vocabulary: int
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    tied: bool
    """One matrix is both the embeddings and the output head."""

    def tensors(self) -> Iterator[tuple[str, int, int]]:
        """Matrices as name, rows, columns, in the order of the file."""
        keys = self.width // self.heads * self.kv_heads
        yield "token_embd.weight", self.vocabulary, self.width
        if not self.tied:
            yield "output.weight", self.vocabulary, self.width
        for layer in range(self.layers):
            for name, rows, columns in (
                ("attn_q", self.width, self.width),
                ("attn_k", keys, self.width),
                ("attn_v", keys, self.width),
                ("attn_output", self.width, self.width),
                ("ffn_gate", self.hidden, self.width),
                ("ffn_up", self.hidden, self.width),
                ("ffn_down", self.width, self.hidden),
            ):
                yield f"blk.{layer}.{name}.weight", rows, columns

    def thin(self) -> Proportions:
        """As little as can be beside the same vocabulary."""
        return self._replace(layers=1, width=256, hidden=256, heads=8, kv_heads=8)

    @property
    def parameters(self) -> int:
        return sum(rows * columns for _name, rows, columns in self.tensors())

    @property
    def file_bytes(self) -> int:
        """Of the matrices; norms and vocabulary are some megabytes more."""
        return self.parameters // _BLOCK_WEIGHTS * _BLOCK_BYTES


TINYLLAMA_1B = Proportions("TinyLlama 1.1B", 32_000, 22, 2048, 5632, 32, 4, tied=False)
LLAMA_3_1B = Proportions("Llama 3.2 1B", 128_256, 16, 2048, 8192, 32, 8, tied=True)
LLAMA_3_8B = Proportions("Llama 3.1 8B", 128_256, 32, 4096, 14_336, 32, 8, tied=False)


def write_model(path: Path, shape: Proportions, *, seed: int = 7) -> Path:
    """Write a model of that shape to `path`. Raises OSError when the disk has no room for it."""
    free, needed = shutil.disk_usage(path.parent).free, shape.file_bytes + (64 << 20)
    if free < needed:
        raise OSError(f"{path.parent} has {free >> 20:,} MiB free; a model like {shape.name} takes {needed >> 20:,}")
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, shape)
    norms = ["output_norm", *(f"blk.{layer}.{name}_norm" for layer in range(shape.layers) for name in ("attn", "ffn"))]
    ones = np.ones(shape.width, dtype=np.float32)
    for name in norms:
        writer.add_tensor_info(f"{name}.weight", ones.shape, ones.dtype, ones.nbytes)
    for name, rows, columns in shape.tensors():
        stored = (rows, columns // _BLOCK_WEIGHTS * _BLOCK_BYTES)
        kind = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), math.prod(stored), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _ in norms:
        writer.write_tensor_data(ones)
    rng = np.random.default_rng(seed)
    for name, rows, columns in shape.tensors():
        writer.write_tensor_data(_matrix(rng, rows, columns, words_only=not name.startswith("blk.")))
    writer.close()
    return path


def _describe(writer: gguf.GGUFWriter, shape: Proportions) -> None:
    writer.add_name(shape.name)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    words = list(itertools.islice(_words(), shape.vocabulary - FIRST_WORD))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*CONTROLS, *(f"<0x{value:02X}>" for value in range(BYTES)), *words])
    writer.add_token_scores([0.0] * FIRST_WORD + [-float(rank) for rank in range(len(words))])
    writer.add_token_types([_CONTROL] * len(CONTROLS) + [_BYTE] * BYTES + [_NORMAL] * len(words))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _words() -> Iterator[str]:
    """Single letters, then pairs, and so on."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))


def _matrix(rng: np.random.Generator, rows: int, columns: int, *, words_only: bool) -> np.ndarray:
    """Blocks of weights that leave a vector about as long as it was.

    `words_only`: the rows of control tokens and bytes are zero, so that of thousands some other is always likelier: a
    byte could be withheld as part of a character, and the end of text would end it.
    """
    blocks = rng.integers(0, 256, (rows, columns // _BLOCK_WEIGHTS, _BLOCK_BYTES), dtype=np.uint8)
    scale = np.array([1 / math.sqrt(columns) / _NIBBLE_DEVIATION], dtype="<f2")
    blocks[:, :, :2] = scale.view(np.uint8)
    if words_only:
        blocks[:FIRST_WORD, :, :2] = 0
    return blocks.reshape(rows, -1)
