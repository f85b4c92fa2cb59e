"""Headers of model files: those that a real writer made, and those that nobody should trust."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ModelError
from agent.core.model_memory import Layer, Plan, kv_bytes
from agent.edges.models.gguf import model_shape
from tests.tiny_model import HIDDEN, LAYERS, WIDTH, write_tiny_model

COUNT = struct.Struct("<Q")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_models_shape_is_read_from_its_header(tiny: Path) -> None:
    shape = model_shape(tiny)
    assert (shape.architecture, shape.width, shape.feed_forward) == ("llama", WIDTH, HIDDEN)
    assert shape.layers == (Layer(key_values=WIDTH, value_values=WIDTH),) * LAYERS
    tensors = gguf.GGUFReader(tiny).tensors
    assert shape.weights_bytes == pytest.approx(sum(int(tensor.n_bytes) for tensor in tensors), abs=32 * len(tensors))
    assert shape.host_bytes == next(int(one.n_bytes) for one in tensors if one.name == "token_embd.weight")
    assert kv_bytes(shape, Plan(slots=2, context_tokens=512)) == 2 * 512 * LAYERS * 2 * WIDTH * 2


def write(path: Path, architecture: str, **more: object) -> Path:
    """A model of one tensor; `more` are keys of the architecture."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(64)
    writer.add_block_count(6)
    for key, value in more.items():
        name = f"{architecture}.{key.replace('__', '.')}"
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_uint32(name, value)
    writer.add_tensor("token_embd.weight", np.ones((8, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_windows_are_told_by_the_architecture_or_layer_by_layer(tmp_path: Path) -> None:
    heads = {"attention__head_count": 4, "attention__head_count_kv": 1, "attention__sliding_window": 512}
    gemma = model_shape(write(tmp_path / "a", "gemma3", **heads))
    assert [layer.window for layer in gemma.layers] == [512] * 5 + [None]
    listed = model_shape(
        write(tmp_path / "b", "new", **heads, attention__sliding_window_pattern=[True, False, True, True, False, True])
    )
    assert [layer.window for layer in listed.layers] == [512, None, 512, 512, None, 512]
    unknown = model_shape(write(tmp_path / "c", "llama", **heads))
    assert {layer.window for layer in unknown.layers} == {None}


def test_a_table_of_embeddings_that_is_also_the_output_goes_onto_the_gpu(tmp_path: Path) -> None:
    assert model_shape(write(tmp_path / "tied", "llama")).host_bytes == 0


def test_layers_without_attention_keep_their_state_alone(tmp_path: Path) -> None:
    shape = model_shape(
        write(
            tmp_path / "hybrid",
            "jamba",
            attention__head_count=4,
            attention__head_count_kv=[0, 0, 1, 0, 0, 1],
            ssm__inner_size=128,
            ssm__state_size=16,
            ssm__conv_kernel=4,
        )
    )
    assert [bool(layer.key_values) for layer in shape.layers] == [False, False, True, False, False, True]
    assert shape.layers[0].state_bytes == 4 * (3 * 128 + 16 * 128)


def test_the_parts_of_a_split_model_count_together(tmp_path: Path) -> None:
    first, second = (tmp_path / f"m-0000{part}-of-00002.gguf" for part in (1, 2))
    write(first, "llama")
    with pytest.raises(ModelError, match="No such file"):
        model_shape(first)
    second.write_bytes(first.read_bytes().replace(b"token_embd.weight", b"another_one.weigh"))
    assert model_shape(first).weights_bytes == 2 * 8 * 64 * 4


def header(*, tensors: int = 0, keys: int = 1, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return COUNT.pack(len(name)) + name + struct.pack("<I", kind) + value


ARCHITECTURE = key(b"general.architecture", 8, COUNT.pack(5) + b"llama")
HUGE = 1 << 62


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "neither a GGUF nor a safetensors"),
        (b"GGUF", "ends in the middle|claims more than the file has"),
        (b"GGUF" + struct.pack("<IQQ", 99, 0, 0), "version 99"),
        (header(keys=HUGE), "claims 4,611,686,018,427,387,904 keys"),
        (header(tensors=HUGE), "claims 4,611,686,018,427,387,904 tensors"),
        (header(body=COUNT.pack(HUGE)), "a name of"),
        (header(body=key(b"a", 8, COUNT.pack(HUGE))), "more than the file has"),
        (header(body=key(b"a", 9, struct.pack("<IQ", 4, HUGE))), "more than the file has"),
        (header(body=key(b"a", 9, struct.pack("<IQ", 8, HUGE))), "more than the file has"),
        (header(body=key(b"a", 9, struct.pack("<IQ", 9, 5))), "unknown type 9"),
        (header(body=key(b"a", 9, struct.pack("<IQ", 9, HUGE))), "unknown type 9"),
        (header(body=key(b"a", 77, b"")), "unknown type 77"),
        (header(keys=0), "does not tell its architecture"),
        (header(body=ARCHITECTURE), "block_count is None"),
        (
            header(keys=2, body=ARCHITECTURE + key(b"llama.block_count", 10, COUNT.pack(HUGE))),
            "block_count is 4611686018427387904, which no model has",
        ),
        (
            header(keys=2, body=ARCHITECTURE + key(b"general.alignment", 4, struct.pack("<I", 0))),
            "alignment is 0",
        ),
        (COUNT.pack(HUGE) + b"{}", "neither a GGUF nor a safetensors"),
        (COUNT.pack(4) + b"nope", "not readable"),
        (COUNT.pack(9) + b'{"a":"b"}', "not readable"),
    ],
)
def test_a_header_that_lies_is_refused_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        model_shape(path)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, tiny: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny.read_bytes()[: tiny.stat().st_size // 2])
    with pytest.raises(ModelError, match="cut short"):
        model_shape(path)


@given(st.data())
def test_whatever_bytes_are_changed_there_is_a_shape_or_a_refusal(tiny: Path, data: st.DataObject) -> None:
    content = bytearray(tiny.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 11_000))] = data.draw(st.integers(0, 255))
    path = tiny.with_name("changed.gguf")
    path.write_bytes(content)
    try:
        shape = model_shape(path)
    except ModelError:
        return
    assert 0 <= shape.host_bytes <= shape.weights_bytes <= len(content)


def test_the_weights_of_a_safetensors_file_are_told(tmp_path: Path) -> None:
    listed = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
    }
    text = json.dumps(listed).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(COUNT.pack(len(text)) + text + bytes(16))
    shape = model_shape(path)
    assert (shape.architecture, shape.weights_bytes) == ("safetensors", 16)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="cut short"):
        model_shape(path)
