"""What models take, against figures that llama.cpp prints of them when it loads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model_memory import BLOCKS, Layer, ModelShape, Plan, attention, kv_bytes, need

MIB = 1 << 20
GB = 10**9

MODELS = {
    "llama-3-8b": ModelShape(
        architecture="llama",
        weights_bytes=4_912_898_304,  # Q4_K_M
        host_bytes=295_501_824,
        width=4096,
        feed_forward=14_336,
        vocabulary=128_256,
        layers=attention(32, 8, 128, 128),
    ),
    "qwen2.5-7b": ModelShape(
        architecture="qwen2",
        weights_bytes=4_677_120_000,
        host_bytes=306_000_000,
        width=3584,
        feed_forward=18_944,
        vocabulary=152_064,
        layers=attention(28, 4, 128, 128),
    ),
    "mixtral-8x7b": ModelShape(
        architecture="llama",
        weights_bytes=26_441_533_376,
        host_bytes=73_728_000,
        width=4096,
        feed_forward=14_336,
        vocabulary=32_000,
        layers=attention(32, 8, 128, 128),
    ),
    "llama-2-7b": ModelShape(architecture="llama", weights_bytes=3_800 * MIB, layers=attention(32, 32, 128, 128)),
    "gemma-3-270m": ModelShape(
        architecture="gemma3",
        weights_bytes=241 * MIB,
        width=640,
        feed_forward=2048,
        vocabulary=262_144,
        layers=attention(18, 1, 256, 256, window=512, every=6),
    ),
}


@pytest.mark.parametrize(
    ("model", "slots", "context", "kv_mib"),
    [
        # As llama.cpp's log has them: "KV self size = … MiB", f16.
        ("llama-3-8b", 1, 8192, 1024),
        ("llama-3-8b", 4, 4096, 2048),
        ("llama-2-7b", 1, 4096, 2048),
        ("qwen2.5-7b", 1, 32_768, 1792),
        ("mixtral-8x7b", 1, 32_768, 4096),
        ("gemma-3-270m", 1, 32_768, 96 + 15),  # three layers see everything, fifteen keep 1,024 tokens
    ],
)
def test_the_cache_is_as_large_as_published(model: str, slots: int, context: int, kv_mib: int) -> None:
    assert kv_bytes(MODELS[model], Plan(slots=slots, context_tokens=context)) == kv_mib * MIB


@pytest.mark.parametrize(
    ("model", "context", "least_gb", "most_gb"),
    [
        # Used GPU memory that people report of these, with everything on the GPU.
        ("llama-3-8b", 8192, 5.9, 6.9),
        ("qwen2.5-7b", 8192, 5.0, 6.2),
        ("mixtral-8x7b", 4096, 26.7, 28.5),
    ],
)
def test_a_model_takes_about_what_is_reported_of_it(model: str, context: int, least_gb: float, most_gb: float) -> None:
    total = need(MODELS[model], Plan(slots=1, context_tokens=context)).total_bytes
    assert least_gb * GB < total < most_gb * GB


def test_a_quantised_cache_takes_as_much_less_as_its_blocks_do() -> None:
    sizes = {
        kind: kv_bytes(MODELS["llama-3-8b"], Plan(slots=1, context_tokens=8192, key_type=kind, value_type=kind))
        for kind in BLOCKS
    }
    assert sizes["q8_0"] == 544 * MIB
    assert sizes["q4_0"] == 288 * MIB
    assert sizes["f32"] == 2048 * MIB


def test_a_cache_of_an_unknown_type_is_no_guess() -> None:
    with pytest.raises(ValueError, match="q9_9 is no type of a cache"):
        kv_bytes(MODELS["llama-3-8b"], Plan(slots=1, context_tokens=256, key_type="q9_9"))


def test_a_table_of_embeddings_stays_in_the_hosts_memory_only_when_the_rest_is_on_a_gpu() -> None:
    shape = MODELS["llama-3-8b"]
    on_gpu, on_host = (need(shape, Plan(slots=1, context_tokens=256, gpus=gpus)) for gpus in (1, 0))
    assert on_host.weights_bytes - on_gpu.weights_bytes == shape.host_bytes


def test_recurrent_layers_keep_the_same_however_long_the_context_is() -> None:
    shape = ModelShape(architecture="mamba", weights_bytes=1, layers=(Layer(state_bytes=1000),) * 3)
    assert [kv_bytes(shape, Plan(slots=2, context_tokens=tokens)) for tokens in (256, 100_000)] == [6000, 6000]


plans = st.builds(
    Plan,
    slots=st.integers(1, 64),
    context_tokens=st.integers(16, 1 << 20),
    key_type=st.sampled_from(sorted(BLOCKS)),
    value_type=st.sampled_from(sorted(BLOCKS)),
    ubatch_tokens=st.integers(1, 4096),
    gpus=st.integers(1, 8),
)


@given(st.sampled_from(sorted(MODELS)), plans, st.integers(0, 64), st.integers(0, 1 << 20))
def test_more_slots_or_context_never_take_less(model: str, plan: Plan, slots: int, tokens: int) -> None:
    shape, before = MODELS[model], need(MODELS[model], plan)
    larger = Plan(
        slots=plan.slots + slots,
        context_tokens=plan.context_tokens + tokens,
        key_type=plan.key_type,
        value_type=plan.value_type,
        ubatch_tokens=plan.ubatch_tokens,
        gpus=plan.gpus,
    )
    after = need(shape, larger)
    assert after.kv_bytes >= before.kv_bytes
    assert after.buffers_bytes >= before.buffers_bytes
    assert after.total_bytes >= before.total_bytes > 0


@given(st.sampled_from(sorted(MODELS)), plans)
def test_a_window_never_makes_a_cache_larger(model: str, plan: Plan) -> None:
    shape = MODELS[model]
    without = tuple(Layer(key_values=layer.key_values, value_values=layer.value_values) for layer in shape.layers)
    whole = ModelShape(architecture="x", weights_bytes=0, layers=without)
    assert kv_bytes(shape, plan) <= kv_bytes(whole, plan)
