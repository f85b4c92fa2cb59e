"""A small random-weight GGUF for tests: a real file that the real llama-server loads in well under a second.

Llama architecture, 2 layers of width 32, a byte-fallback vocabulary of about 400 pieces. Its text is noise; what
matters is that tokens, log-probabilities, templates and embeddings are real. The same seed gives the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT = 32, 2, 4, 64, 4096
CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
_CONTROL, _NORMAL, _BYTE = 3, 1, 6


def _vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """SentencePiece-style: three control pieces, 256 bytes, then lower-case pairs and single letters."""
    pieces: list[tuple[str, int]] = [("<unk>", 2), ("<s>", _CONTROL), ("</s>", _CONTROL)]
    pieces += [(f"<0x{value:02X}>", _BYTE) for value in range(256)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces += [("▁", _NORMAL)] + [(letter, _NORMAL) for letter in letters]
    pieces += [(f"▁{letter}", _NORMAL) for letter in letters]
    pieces += [(f"{vowel}{letter}", _NORMAL) for vowel in "aeiou" for letter in letters]
    scores = [0.0 if kind != _NORMAL else -float(index) for index, (_, kind) in enumerate(pieces)]
    return [text.encode() for text, _ in pieces], scores, [kind for _, kind in pieces]


def _byte_signs() -> dict[int, str]:
    """How vocabularies of byte-level BPE write each byte: GPT-2's table, `bytes_to_unicode` of its `encoder.py`."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [value for value in range(256) if value not in plain]
    return {value: chr(value) for value in plain} | {value: chr(256 + at) for at, value in enumerate(rest)}


def _byte_level() -> tuple[list[str], list[str]]:
    """A vocabulary of byte-level BPE, and its merges: two control pieces, 256 bytes, and longer ones, of which many
    begin or end inside a character, as those of real models do.
    """
    signs = _byte_signs()
    longer = [b" \xf0", b".\xe2", b".\xe2\x80", b"\xe2\x80", b"\xf0\x9f", b"\n\xf0", b" \xe2", b"\x80\x99", b"\xc3\xa9"]
    longer += [f"{vowel}{letter}".encode() for vowel in "aeiou" for letter in "bcdfgh"] + [b"\n\n", b" a", b"e."]
    pieces = [bytes([value]) for value in range(256)] + longer

    def spelled(piece: bytes) -> str:
        return "".join(signs[value] for value in piece)

    merges = [f"{spelled(piece[:-1])} {spelled(piece[-1:])}" for piece in longer]
    return ["<s>", "</s>", *map(spelled, pieces)], merges


def _tell_pieces(writer: gguf.GGUFWriter) -> list[int]:
    tokens, scores, kinds = _vocabulary()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return kinds


def _tell_bytes(writer: gguf.GGUFWriter) -> list[int]:
    tokens, merges = _byte_level()
    kinds = [_CONTROL, _CONTROL] + [_NORMAL] * (len(tokens) - 2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    return kinds


def write_tiny_model(
    path: Path, *, seed: int = 7, letters_only: bool = False, begins: bool = True, byte_level: bool = False
) -> Path:
    """Write the model to `path` and return it. `seed` varies the weights and so the file's digest.

    `letters_only`: where the likeliest token is taken, it is never a byte or the end, so that no token is withheld.
    `begins`: each text begins with a token of its own; of some models none does.
    `byte_level`: its tokenizer is a byte-level BPE, in which a token may be a blank and a part of a character.
    """
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    kinds = (_tell_bytes if byte_level else _tell_pieces)(writer)
    writer.add_vocab_size(len(kinds))
    if not begins:
        writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    writer.add_tensor("token_embd.weight", weights(len(kinds), WIDTH))
    likely = weights(len(kinds), WIDTH)
    if letters_only:
        likely[: kinds.index(_NORMAL)] = 0.0  # as likely as the average: of 150 others one is always likelier
    writer.add_tensor("output.weight", likely)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, dtype=np.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{norm}.weight", np.ones(WIDTH, dtype=np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}.{name}.weight", weights(WIDTH, WIDTH))
        writer.add_tensor(f"{block}.ffn_gate.weight", weights(HIDDEN, WIDTH))
        writer.add_tensor(f"{block}.ffn_up.weight", weights(HIDDEN, WIDTH))
        writer.add_tensor(f"{block}.ffn_down.weight", weights(WIDTH, HIDDEN))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


if __name__ == "__main__":
    print(write_tiny_model(Path(sys.argv[1])))
