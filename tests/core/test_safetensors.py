"""What a config.json tells of a model's cache, against figures that engines print for the same models."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.gguf import HeaderError
from agent.core.model_memory import Plan, kv_bytes
from agent.core.safetensors import shape_with

MIB = 1 << 20
LLAMA_3_8B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "vocab_size": 128_256,
}
QWEN_2_5_7B = {
    "model_type": "qwen2",
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 3584,
    "sliding_window": 131_072,
    "use_sliding_window": False,
}
GEMMA_3_270M = {
    "model_type": "gemma3_text",
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "hidden_size": 640,
    "sliding_window": 512,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
}
DEEPSEEK_V2_LITE = {
    "model_type": "deepseek_v2",
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "hidden_size": 2048,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
}
HYBRID = LLAMA_3_8B | {
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 8
}


@pytest.mark.parametrize(
    ("told", "context", "kv_mib"),
    [
        (LLAMA_3_8B, 8192, 1024),
        (QWEN_2_5_7B, 32_768, 1792),
        (GEMMA_3_270M, 32_768, 96 + 15),
        ({"model_type": "gemma3", "text_config": GEMMA_3_270M, "vision_config": {"hidden_size": 1}}, 32_768, 111),
        ({k: v for k, v in GEMMA_3_270M.items() if k != "layer_types"} | {"sliding_window_pattern": 6}, 32_768, 111),
        (DEEPSEEK_V2_LITE, 4096, 121.5),
        (HYBRID, 8192, 256),
        (LLAMA_3_8B | {"model_type": "mistral", "sliding_window": 4096}, 32_768, 576),  # 4,096 and the batch's 512
        (LLAMA_3_8B | {"sliding_window": 4096}, 8192, 1024),  # not told of which layers: all count
    ],
)
def test_the_cache_is_as_large_as_published(told: dict[str, Any], context: int, kv_mib: float) -> None:
    assert kv_bytes(shape_with(1, told), Plan(slots=1, context_tokens=context)) == kv_mib * MIB


def test_the_shape_has_the_rest_that_buffers_are_told_by() -> None:
    shape = shape_with(16_060_000_000, LLAMA_3_8B)
    assert (shape.architecture, shape.weights_bytes, shape.width) == ("llama", 16_060_000_000, 4096)
    assert (shape.feed_forward, shape.vocabulary, len(shape.layers)) == (14_336, 128_256, 32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": None}, "None for num_hidden_layers"),
        ({"num_hidden_layers": 1 << 40}, "1099511627776 for num_hidden_layers, which no model has"),
        ({"num_key_value_heads": -1}, "-1 for num_key_value_heads"),
        ({"hidden_size": "4096"}, "4096 for hidden_size"),
        ({"hidden_size": True}, "True for hidden_size"),
    ],
)
def test_numbers_that_no_model_has_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(HeaderError, match=words):
        shape_with(1, LLAMA_3_8B | changes)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*LLAMA_3_8B, *GEMMA_3_270M, "kv_lora_rank", "text_config"]), _ANYTHING))
def test_whatever_it_says_there_is_a_shape_or_a_refusal(changes: dict[str, Any]) -> None:
    try:
        shape = shape_with(1, LLAMA_3_8B | {"num_hidden_layers": 4} | changes)
    except HeaderError:
        return
    assert kv_bytes(shape, Plan(slots=1, context_tokens=256)) >= 0
