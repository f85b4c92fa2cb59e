"""What a model takes: bytes of weights, KV cache and buffers, by what its header tells. The layout is llama.cpp's."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.model import Value

BLOCKS: dict[str, tuple[int, int]] = {
    **{"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q5_1": (32, 24), "q5_0": (32, 22)},
    **{"q4_1": (32, 20), "q4_0": (32, 18), "iq4_nl": (32, 18)},
}
"""Types that a KV cache may have: values per block, bytes per block (ggml's block_* structs)."""
UBATCH_TOKENS = 512
"""llama-server's default: tokens that are computed at once."""
_CELL_TOKENS = 256
"""A cache's length is rounded up to this."""
_CONTEXT_BYTES = 320 << 20
"""Taken by CUDA itself and its kernels before anything is loaded: 250 to 500 MiB by card and driver."""
_ACTIVATIONS = 8
"""Intermediate vectors of the model's width, and two of its widest feed-forward, that are held at once."""


class Layer(Value):
    """What one layer keeps of a sequence."""

    key_values: int = 0
    """Values of keys per token, all heads together; 0 where the layer has no attention."""
    value_values: int = 0
    window: int | None = None
    """It sees so many tokens back, and keeps no more; None: all of them."""
    state_bytes: int = 0
    """Of a recurrent layer: the same however long the sequence is."""


class ModelShape(Value):
    """What a header tells of a model."""

    architecture: str
    weights_bytes: int
    """All tensors, as they lie in the file."""
    host_bytes: int = 0
    """Of these, what stays in the host's memory when the rest is on a GPU: a table of embeddings."""
    width: int = 0
    feed_forward: int = 0
    vocabulary: int = 0
    layers: tuple[Layer, ...] = ()


class Plan(Value):
    """How an engine will run a model."""

    slots: int
    context_tokens: int
    """Of one slot."""
    key_type: str = "f16"
    value_type: str = "f16"
    ubatch_tokens: int = UBATCH_TOKENS
    gpus: int = 1
    """0 on the processor."""


class Need(Value):
    """Bytes that an engine takes in all."""

    weights_bytes: int
    kv_bytes: int
    buffers_bytes: int
    """Allowance for what is computed with; on each GPU anew."""
    slots: int
    context_tokens: int
    """Of one slot."""
    layers: int = 1
    gpus: int = 1
    measured_bytes: int | None = None
    """What it really took when it ran before."""

    @property
    def estimated_bytes(self) -> int:
        """By the header, over all GPUs."""
        return self.weights_bytes + self.kv_bytes + self.buffers_bytes * max(self.gpus, 1)

    @property
    def total_bytes(self) -> int:
        """What counts: the larger one. A measurement may have come before everything was in use."""
        return max(self.estimated_bytes, self.measured_bytes or 0)

    @property
    def by_measurement(self) -> bool:
        """Whether it took more than its header told."""
        return (self.measured_bytes or 0) > self.estimated_bytes


def need(shape: ModelShape, plan: Plan) -> Need:
    """What `plan` takes of the memory that it computes in. Raises ValueError for a type that no cache has."""
    return Need(
        weights_bytes=shape.weights_bytes - (shape.host_bytes if plan.gpus else 0),
        kv_bytes=kv_bytes(shape, plan),
        buffers_bytes=buffers_bytes(shape, plan),
        slots=plan.slots,
        context_tokens=plan.context_tokens,
        layers=max(len(shape.layers), 1),
        gpus=plan.gpus,
    )


def kv_bytes(shape: ModelShape, plan: Plan) -> int:
    """The caches of all slots. Raises ValueError for a type that no cache has."""
    return plan.slots * sum(_kept_bytes(layer, plan) for layer in shape.layers)


def _kept_bytes(layer: Layer, plan: Plan) -> int:
    tokens = _rounded(plan.context_tokens)
    if layer.window is not None:
        # A window must hold what comes next as well.
        tokens = min(tokens, _rounded(layer.window + plan.ubatch_tokens))
    keys = _values_bytes(layer.key_values * tokens, plan.key_type)
    values = _values_bytes(layer.value_values * tokens, plan.value_type)
    return keys + values + layer.state_bytes


def _rounded(tokens: int) -> int:
    return -(-tokens // _CELL_TOKENS) * _CELL_TOKENS


def _values_bytes(count: int, kind: str) -> int:
    if kind not in BLOCKS:
        raise ValueError(f"{kind} is no type of a cache; there are {', '.join(sorted(BLOCKS))}")
    per_block, block_bytes = BLOCKS[kind]
    return -(-count // per_block) * block_bytes


def buffers_bytes(shape: ModelShape, plan: Plan) -> int:
    """An allowance, per GPU: CUDA itself, activations and logits of one batch, and the mask over all it attends to."""
    batch = min(plan.ubatch_tokens, plan.slots * plan.context_tokens)
    activations = 4 * batch * (_ACTIVATIONS * shape.width + 2 * shape.feed_forward + shape.vocabulary)
    mask = 6 * batch * _rounded(plan.context_tokens)  # as f32 and as f16
    return activations + mask + (_CONTEXT_BYTES if plan.gpus else 0)


def attention(
    layers: int,
    heads_kv: int | Sequence[int],
    key_length: int,
    value_length: int,
    *,
    window: int | None = None,
    every: int = 0,
) -> tuple[Layer, ...]:
    """Layers of attention. Of those with a `window`, each `every`-th sees everything (0: all of them do)."""
    counts = [heads_kv] * layers if isinstance(heads_kv, int) else list(heads_kv)
    return tuple(
        Layer(
            key_values=count * key_length,
            value_values=count * value_length,
            window=window if every and (index + 1) % every else None,
        )
        for index, count in enumerate(counts)
    )
