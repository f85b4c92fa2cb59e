"""From what a GGUF header says to the shape of the model. Headers come from strangers: every number is doubted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from agent.core.model import Value
from agent.core.model_memory import Layer, ModelShape, attention

Scalar = str | int | float | bool
Told = Scalar | tuple[Scalar, ...]
_MOST = 1 << 24
"""Larger than any width, length or count in any model."""
_MOST_LAYERS = 4096
_WINDOWED = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2}
"""Architectures whose attention is windowed, but for each n-th layer. Where neither this nor the header tells it, a
layer counts as one that sees everything, which takes more."""
_EMBEDDINGS = "token_embd.weight"
_OUTPUT = "output.weight"


class HeaderError(ValueError):
    """A header that no sound file has; the message says what is wrong."""


class Tensor(Value):
    """One tensor as the header lists it."""

    name: str
    offset: int
    """From the start of the data."""


class Header(Value):
    """What was read of one file."""

    told: dict[str, Told]
    """Keys and values; of long arrays only how long they are, in `lengths`."""
    lengths: dict[str, int]
    tensors: tuple[Tensor, ...]
    data_bytes: int
    """Of the file after the header."""


def shape_of(headers: Sequence[Header]) -> ModelShape:
    """The model of these files: one, or the parts of a model that was split, the first of which tells all keys.

    Raises HeaderError.
    """
    facts = _Facts(headers[0])
    sizes = {name: size for header in headers for name, size in _sizes(header)}
    # Without a matrix of its own for the output, that of the embeddings is loaded twice: for either use.
    host = sizes.get(_EMBEDDINGS, 0) if _OUTPUT in sizes else 0
    return ModelShape(
        architecture=facts.architecture,
        weights_bytes=sum(sizes.values()),
        host_bytes=host,
        width=facts.number("embedding_length"),
        feed_forward=max(facts.each("feed_forward_length", 0)),
        vocabulary=headers[0].lengths.get("tokenizer.ggml.tokens") or facts.number("vocab_size", 0),
        layers=_layers(facts),
    )


def _sizes(header: Header) -> list[tuple[str, int]]:
    """Each tensor reaches to the next one: that needs no table of types, and cannot exceed the file."""
    ordered = sorted(header.tensors, key=lambda tensor: tensor.offset)
    if ordered and ordered[-1].offset > header.data_bytes:
        raise HeaderError(f"{ordered[-1].name[:80]!r} lies beyond the end of the file: it is cut short")
    ends = [(before.name, after.offset - before.offset) for before, after in pairwise(ordered)]
    return [*ends, *((last.name, header.data_bytes - last.offset) for last in ordered[-1:])]


class _Facts:
    """Keys of one architecture, checked as they are asked for."""

    def __init__(self, header: Header) -> None:
        name = header.told.get("general.architecture")
        if not isinstance(name, str) or not name:
            raise HeaderError("it does not tell its architecture")
        self.architecture = name[:64]
        self._header = header
        self.layers = self.number("block_count", most=_MOST_LAYERS)

    def told(self, key: str) -> Told | None:
        return self._header.told.get(f"{self.architecture}.{key}")

    def number(self, key: str, default: int | None = None, *, most: int = _MOST) -> int:
        return self._checked(key, self.told(key), default, most)

    def each(self, key: str, default: int | None = None) -> tuple[int, ...]:
        """Of every layer; one number stands for all."""
        told = self.told(key)
        if not isinstance(told, tuple):
            return (self._checked(key, told, default, _MOST),) * max(self.layers, 1)
        if len(told) < self.layers:
            raise HeaderError(f"{key} tells {len(told)} layers of {self.layers}")
        return tuple(self._checked(key, one, default, _MOST) for one in told[: self.layers]) or (0,)

    def _checked(self, key: str, told: Told | None, default: int | None, most: int) -> int:
        if told is None and default is not None:
            return default
        if not isinstance(told, int) or not 0 <= told <= most:
            raise HeaderError(f"its {key} is {str(told)[:40]}, which no model has")
        return int(told)


def _layers(facts: _Facts) -> tuple[Layer, ...]:
    heads = facts.each("attention.head_count", 0)
    heads_kv = heads if facts.told("attention.head_count_kv") is None else facts.each("attention.head_count_kv")
    state = _state_bytes(facts)
    width = facts.number("embedding_length") // max(*heads, 1)
    window, every = facts.number("attention.sliding_window", 0), _WINDOWED.get(facts.architecture, 0)
    found = attention(
        facts.layers,
        heads_kv[: facts.layers],
        facts.number("attention.key_length", width),
        facts.number("attention.value_length", width),
        window=window or None,
        every=every,
    )
    found = _as_told(found, facts.told("attention.sliding_window_pattern"), window)
    return tuple(layer if layer.key_values else Layer(state_bytes=state) for layer in found)


def _as_told(layers: tuple[Layer, ...], pattern: Told | None, window: int) -> tuple[Layer, ...]:
    """A header that says of every layer whether it is windowed knows better than a table."""
    if not isinstance(pattern, tuple) or len(pattern) < len(layers) or not window:
        return layers
    return tuple(
        Layer(key_values=layer.key_values, value_values=layer.value_values, window=window if one is True else None)
        for layer, one in zip(layers, pattern, strict=False)
    )


def _state_bytes(facts: _Facts) -> int:
    """Of a recurrent layer (Mamba and kin), per slot, as f32: the convolution's last inputs and the state itself."""
    inner, state = facts.number("ssm.inner_size", 0), facts.number("ssm.state_size", 0)
    kernel, groups = facts.number("ssm.conv_kernel", 0), facts.number("ssm.group_count", 0)
    return 4 * (max(kernel - 1, 0) * (inner + 2 * groups * state) + state * inner)
