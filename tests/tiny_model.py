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


def write_tiny_model(path: Path, *, seed: int = 7, letters_only: bool = False, begins: bool = True) -> Path:
    """Write the model to `path` and return it. `seed` varies the weights and so the file's digest.

    `letters_only`: where the likeliest token is taken, it is never a byte or the end, so that no token is withheld.
    `begins`: each text begins with a token of its own; of some models none does.
    """
    tokens, scores, kinds = _vocabulary()
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
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if not begins:
        writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    writer.add_tensor("token_embd.weight", weights(len(tokens), WIDTH))
    likely = weights(len(tokens), WIDTH)
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
