"""Headers of safetensors files, as they lie on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.core.errors import ModelError
from agent.edges.models.gguf import model_shape
from tests.core.test_safetensors import LLAMA_3_8B


def write(path: Path, *sizes: int) -> Path:
    """A file with tensors of so many bytes."""
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    listed = {
        f"t{place}": {"dtype": "U8", "shape": [size], "data_offsets": [end - size, end]}
        for place, (size, end) in enumerate(zip(sizes, ends, strict=True))
    }
    text = json.dumps({"__metadata__": {"format": "pt"}} | listed).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(sum(sizes)))
    return path


def test_all_parts_of_a_model_count_and_its_config_tells_the_cache(tmp_path: Path) -> None:
    first = write(tmp_path / "model-00001-of-00002.safetensors", 100, 50)
    second = write(tmp_path / "model-00002-of-00002.safetensors", 25)
    assert model_shape(first).weights_bytes == 175
    assert model_shape(first).layers == ()
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_8B))
    shape = model_shape(first)
    assert (shape.architecture, shape.weights_bytes, len(shape.layers)) == ("llama", 175, 32)
    second.unlink()
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        model_shape(first)


@pytest.mark.parametrize("config", [b"", b"[]", b"{", b"\xff", b'{"num_hidden_layers": 1}', b"[" * 100_000])
def test_a_config_that_lies_is_refused_in_words(tmp_path: Path, config: bytes) -> None:
    path = write(tmp_path / "model.safetensors", 10)
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(ModelError, match=r"config\.json"):
        model_shape(path)
