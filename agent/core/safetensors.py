"""From a `config.json` (Hugging Face's) to what a model keeps of a sequence. It comes from strangers: every number is
doubted, and what is not told counts as what takes more."""

from __future__ import annotations

from collections.abc import Mapping

from agent.core.gguf import HeaderError
from agent.core.model_memory import Layer, ModelShape

_MOST = 1 << 24
"""Larger than any width, length or count in any model."""
_MOST_LAYERS = 4096
_WITHOUT_CACHE = frozenset({"linear_attention", "mamba", "recurrent", "conv"})
"""Types of layers that keep a state of fixed size instead of keys and values."""


def shape_with(weights_bytes: int, told: Mapping[str, object]) -> ModelShape:
    """The model of these weights. Raises HeaderError for numbers that no model has."""
    text = told.get("text_config")  # of a model that sees or hears, too
    facts = _Facts({**told, **text} if isinstance(text, dict) else told)
    return ModelShape(
        architecture=str(facts.told.get("model_type", "safetensors"))[:64],
        weights_bytes=weights_bytes,
        width=facts.number("hidden_size"),
        feed_forward=facts.number("intermediate_size", 0),
        vocabulary=facts.number("vocab_size", 0),
        layers=tuple(_layer(facts, index) for index in range(facts.number("num_hidden_layers", most=_MOST_LAYERS))),
    )


class _Facts:
    """Keys, checked as they are asked for."""

    def __init__(self, told: Mapping[str, object]) -> None:
        self.told = told

    def number(self, key: str, default: int | None = None, *, most: int = _MOST) -> int:
        found = self.told.get(key)
        if found is None and default is not None:
            return default
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= most:
            raise HeaderError(f"its config.json says {str(found)[:40]} for {key}, which no model has")
        return found

    def kind(self, index: int) -> str:
        """Of a layer; empty where they are not told apart."""
        kinds = self.told.get("layer_types")
        found = kinds[index] if isinstance(kinds, list) and index < len(kinds) else ""
        return found if isinstance(found, str) else ""


def _layer(facts: _Facts, index: int) -> Layer:
    kind = facts.kind(index)
    if kind in _WITHOUT_CACHE:
        return Layer()
    if compressed := facts.number("kv_lora_rank", 0):  # DeepSeek's: keys and values share one vector a token
        return Layer(key_values=compressed + facts.number("qk_rope_head_dim", 0))
    heads = facts.number("num_attention_heads", 1)
    heads_kv = facts.number("num_key_value_heads", heads)
    length = facts.number("head_dim", facts.number("hidden_size") // max(heads, 1))
    return Layer(key_values=heads_kv * length, value_values=heads_kv * length, window=_window(facts, kind, index))


def _window(facts: _Facts, kind: str, index: int) -> int | None:
    window = facts.number("sliding_window", 0)
    if not window or facts.told.get("use_sliding_window") is False:
        return None
    if kind:
        return window if kind == "sliding_attention" else None
    every = facts.number("sliding_window_pattern", 0)
    if every:
        return window if (index + 1) % every else None
    # Mistral's first models: all layers. Others tell which, or use none.
    return window if facts.told.get("model_type") == "mistral" else None
