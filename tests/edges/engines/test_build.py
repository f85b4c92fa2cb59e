"""From the configuration to pools: no engine is made for a model that is not what it should be."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from agent.config import Config, EngineKind, EngineProfile, ModelConfig, NodeConfig, PoolConfig
from agent.core.determinism import cards
from agent.core.errors import ConfigError, ModelError
from agent.core.gpu import Gpu, GpuReport, MigSlice
from agent.core.model import TaskKind
from agent.edges.clock import SystemClock
from agent.edges.engines.build import Built, build_pools, processor
from agent.edges.engines.imprinted import ImprintedPool
from agent.edges.engines.launch import LlamaSettings, computes_on, determinism_class, find_llama_server, sandbox_spec
from agent.edges.engines.placement import GpuRoom, need_of
from agent.edges.models.gguf import model_shape
from agent.edges.sandbox.bubblewrap import Bubblewrap
from tests.core.test_safetensors import LLAMA_3_8B
from tests.edges.models.test_safetensors import write


async def build(base: Path, *models: ModelConfig, pools: tuple[PoolConfig, ...], gpus: tuple[str, ...] = ()) -> Built:
    node = NodeConfig(state_dir=base, cache_dir=base / "cache", runtime_dir=base / "run")
    config = Config(node=node, models=models, pools=pools)
    return await build_pools(config, Bubblewrap(base), SystemClock(), gpus=gpus)


async def test_a_pool_offers_its_verified_model(short_dir: Path, tiny_model: Path) -> None:
    model = ModelConfig(name="tiny", path=tiny_model, license="CC0")
    built = await build(short_dir, model, pools=(PoolConfig(name="main", model="tiny", slots=2),))
    facts = built.pools[0].facts
    assert facts.model_digest == built.models[0].digest
    assert (facts.device, facts.slots, facts.ready) == ("cpu", 2, False)
    assert built.models[0].license == "CC0"


async def test_a_pool_with_imprints_is_one_pool_with_two_engines(short_dir: Path, tiny_model: Path) -> None:
    pool = PoolConfig(name="main", model="tiny", device="cpu", slots=2, toploc=True)
    [made] = (await build(short_dir, ModelConfig(name="tiny", path=tiny_model), pools=(pool,))).pools
    assert isinstance(made, ImprintedPool)
    assert (made.facts.name, made.facts.slots) == ("main", 2)
    assert sorted(entry.name for entry in (short_dir / "run" / "engines").iterdir()) == ["main", "main-states"]


def test_an_engine_for_hidden_states_reads_a_whole_context_in_one_go(tiny_model: Path) -> None:
    argv = sandbox_spec(llama(tiny_model, states=True, context_tokens=512, args=("-ub", "64"))).argv
    assert argv[-7:] == ("--embeddings", "--pooling", "none", "-b", "512", "-ub", "512")


def test_what_reads_a_context_in_one_go_is_known_to_take_memory_for_that(tiny_model: Path) -> None:
    shape = model_shape(tiny_model)
    plain, states = (need_of(shape, llama(tiny_model, context_tokens=4096, states=states)) for states in (False, True))
    assert plain is not None
    assert states is not None
    assert states.buffers_bytes == 8 * plain.buffers_bytes  # 4,096 tokens at once, not 512


async def test_a_wrong_digest_is_refused_before_anything_runs(short_dir: Path, tiny_model: Path) -> None:
    model = ModelConfig(name="tiny", path=tiny_model, digest="sha256:" + "0" * 64)
    with pytest.raises(ModelError, match="expected sha256:0000"):
        await build(short_dir, model, pools=(PoolConfig(name="main", model="tiny"),))
    assert not (short_dir / "run").exists()


async def test_an_external_pool_needs_no_file_and_claims_the_owners_digest(short_dir: Path) -> None:
    digest = "sha256:" + "a" * 64
    pool = PoolConfig(
        name="far", model="big", engine=EngineKind.EXTERNAL, profile=EngineProfile.VLLM, url="http://127.0.0.1:1"
    )
    built = await build(short_dir, ModelConfig(name="big", digest=digest), pools=(pool,))
    facts = built.pools[0].facts
    assert (facts.model_digest, facts.engine_digest, facts.determinism) == (digest, "", "U")
    assert facts.engine == "vllm"


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (PoolConfig(name="p", model="m", engine=EngineKind.EXTERNAL), "needs a url"),
        (PoolConfig(name="p", model="m"), "has no path"),
        (
            PoolConfig(name="p", model="m", engine=EngineKind.EXTERNAL, profile=EngineProfile.TEI, url="unix:/x"),
            "tei does no chat or completion tasks",
        ),
    ],
)
async def test_a_pool_that_lacks_what_it_needs_is_a_configuration_fault(
    short_dir: Path, pool: PoolConfig, words: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        await build(short_dir, ModelConfig(name="m"), pools=(pool,))
    assert words in refused.value.faults[0]


async def test_one_llama_server_for_chats_and_embeddings_is_a_configuration_fault(
    short_dir: Path, tiny_model: Path
) -> None:
    pool = PoolConfig(name="p", model="tiny", kinds=(TaskKind.CHAT, TaskKind.EMBEDDING))
    with pytest.raises(ConfigError) as refused:
        await build(short_dir, ModelConfig(name="tiny", path=tiny_model), pools=(pool,))
    assert "two pools" in refused.value.faults[0]


async def test_auto_does_not_claim_a_gpu_that_the_engine_cannot_use(short_dir: Path, tiny_model: Path) -> None:
    folder = short_dir / "engine" / "bin"
    folder.mkdir(parents=True)
    (folder / "llama-server").write_bytes(b"#!/bin/sh\n")
    model, gpus = ModelConfig(name="tiny", path=tiny_model), ("GPU-1", "GPU-2")
    pool = PoolConfig(name="p", model="tiny", binary=str(folder / "llama-server"))
    assert (await build(short_dir, model, pools=(pool,), gpus=gpus)).pools[0].facts.device == "cpu"
    (folder / "libggml-cuda.so").write_bytes(b"")
    assert (await build(short_dir, model, pools=(pool,), gpus=gpus)).pools[0].facts.device == "GPU-1"
    assert (await build(short_dir, model, pools=(pool,))).pools[0].facts.device == "cpu"


def llama(weights: Path, **changes: object) -> LlamaSettings:
    fields = {
        "name": "p",
        "binary": find_llama_server("auto"),
        "model": "m",
        "model_digest": "",
        "weights": weights,
        "socket_dir": weights.parent,
    } | changes
    return LlamaSettings(**fields)  # type: ignore[arg-type]


def test_threads_do_not_change_the_determinism_class_but_what_computes_does(tiny_model: Path) -> None:
    base = determinism_class(llama(tiny_model), "e", "cpu a")
    assert determinism_class(llama(tiny_model, threads=7), "e", "cpu a") == base
    others = [
        determinism_class(llama(tiny_model), "other", "cpu a"),
        determinism_class(llama(tiny_model), "e", "cpu b"),
        determinism_class(llama(tiny_model, slots=2), "e", "cpu a", calibrated=True),
        determinism_class(llama(tiny_model, args=("-ctk", "q8_0")), "e", "cpu a"),
    ]
    assert len({base, *others}) == 5


def test_the_engine_sees_its_files_its_model_and_nothing_else_of_the_host(tiny_model: Path) -> None:
    spec = sandbox_spec(llama(tiny_model))
    assert spec.argv[0] == "/engine/bin/llama-server"
    assert {inside for _, inside in spec.ro_mounts} == {"/engine/bin", "/engine/lib", f"/model/{tiny_model.name}"}
    assert spec.gpus == ()
    assert "none" in spec.argv[spec.argv.index("-dev") + 1]


def test_a_processor_is_named_by_model_and_features(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor: 0\nmodel name: X\nMHz: 1\nflags: avx2\n\nprocessor: 1\nflags: other\n")
    assert processor(cpuinfo) == "flags: avx2\nmodel name: X"
    assert processor(tmp_path / "absent") == ""


REPORT = GpuReport(
    driver="580.82",
    gpus=(
        Gpu(uuid="GPU-a", name="NVIDIA H100 80GB HBM3", index=0, compute_capability="9.0"),
        Gpu(uuid="GPU-b", name="NVIDIA H100 80GB HBM3", index=1, compute_capability="9.0"),
        Gpu(uuid="GPU-c", name="NVIDIA L4", index=2, compute_capability="8.9"),
        Gpu(
            uuid="GPU-d",
            name="NVIDIA H100 80GB HBM3",
            index=3,
            compute_capability="9.0",
            mig=(
                MigSlice(uuid="MIG-1", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", memory_total_bytes=1),
                MigSlice(uuid="MIG-2", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", memory_total_bytes=1),
                MigSlice(uuid="MIG-3", name="NVIDIA H100 80GB HBM3 MIG 3g.40gb", memory_total_bytes=1),
            ),
        ),
    ),
)


def on(weights: Path, *gpus: str, report: GpuReport = REPORT, **changes: object) -> str:
    settings = llama(weights, gpus=gpus, **changes)
    return determinism_class(settings, "e", computes_on(settings, "cpu a", cards(report, gpus)))


def test_equal_cards_share_a_determinism_class_and_others_do_not(tiny_model: Path) -> None:
    one = on(tiny_model, "GPU-a")
    assert one.startswith("X-")
    assert on(tiny_model, "GPU-b") == one
    assert on(tiny_model, "MIG-1") == on(tiny_model, "MIG-2")
    newer = msgspec.structs.replace(REPORT, driver="590.1")
    others = {
        on(tiny_model),
        on(tiny_model, "GPU-c"),
        on(tiny_model, "MIG-1"),
        on(tiny_model, "MIG-3"),
        on(tiny_model, "GPU-a", report=newer),
    }
    assert len({one, *others}) == 6


def test_how_a_model_is_cut_over_gpus_is_part_of_the_class(tiny_model: Path) -> None:
    both = on(tiny_model, "GPU-a", "GPU-b", tensor_split=(1, 1))
    assert on(tiny_model, "GPU-b", "GPU-a", tensor_split=(1, 1)) == both
    others = {
        on(tiny_model, "GPU-a"),
        on(tiny_model, "GPU-a", "GPU-b", tensor_split=(2, 1)),
        on(tiny_model, "GPU-a", "GPU-c", tensor_split=(1, 1)),
    }
    assert len({both, *others}) == 4


def test_a_gpu_of_which_too_little_is_known_is_unverifiable(tiny_model: Path) -> None:
    assert on(tiny_model, "GPU-new") == "U"
    assert on(tiny_model, "GPU-a", report=GpuReport(gpus=REPORT.gpus)) == "U"


def test_several_slots_are_verifiable_by_a_calibration_alone(tiny_model: Path) -> None:
    assert determinism_class(llama(tiny_model, slots=2), "e", "cpu a") == "U"
    assert determinism_class(llama(tiny_model, slots=2), "e", "cpu a", calibrated=True).startswith("F-")
    assert determinism_class(llama(tiny_model), "e", "cpu a").startswith("X-")


async def test_what_the_model_of_an_external_engine_takes_is_told_by_its_file_where_there_is_one(
    short_dir: Path, tmp_path: Path
) -> None:
    weights = write(tmp_path / "model.safetensors", 3 << 20)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_8B))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.bin").write_bytes(b"no model that is known")
    models = tuple(
        ModelConfig(name=name, path=path, digest=digest)
        for name, path, digest in (
            ("known", weights, None),
            ("strange", tmp_path / "other" / "weights.bin", None),
            ("bare", None, "sha256:" + "0" * 64),
        )
    )
    pools = tuple(
        PoolConfig(
            name=model.name,
            model=model.name,
            engine=EngineKind.EXTERNAL,
            profile=EngineProfile.VLLM,
            url="http://127.0.0.1:1",
            kinds=(TaskKind.CHAT,),
            context_tokens=8192,
        )
        for model in models
    )
    room = GpuRoom()
    config = Config(node=NodeConfig(cache_dir=short_dir / "c", runtime_dir=short_dir), models=models, pools=pools)
    await build_pools(config, Bubblewrap(short_dir), SystemClock(), room=room)
    expected = room.taken("known").expected_bytes
    assert expected is not None
    assert expected > (3 << 20) + (1 << 30), "weights and a GiB of cache, at least"
    assert (room.taken("strange").expected_bytes, room.taken("bare").expected_bytes) == (None, None)
