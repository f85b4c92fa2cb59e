"""Pools from the configuration: every model is verified before any engine may see it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from agent.config import Config, EngineKind, ModelConfig, PoolConfig
from agent.core.engines import PROFILES
from agent.core.errors import ConfigError, ModelError
from agent.core.fingerprint import Model
from agent.core.manifest import ModelManifest
from agent.core.model_memory import Need, need
from agent.core.placement import plan_of
from agent.edges.durable import make_private_directory
from agent.edges.engines.external import ExternalPool, ExternalSettings
from agent.edges.engines.imprinted import ImprintedPool
from agent.edges.engines.launch import (
    CPU,
    LlamaSettings,
    engine_digest,
    engine_files,
    find_llama_server,
    runs_on_nvidia,
)
from agent.edges.engines.llama import EngineFacts, LlamaPool
from agent.edges.engines.placement import GpuRoom, Placement
from agent.edges.host import Host
from agent.edges.models.gguf import model_shape
from agent.edges.models.store import ModelStore, Progress, Verified
from agent.edges.models.thresholds import shelf
from agent.ports import Calibrations, Clock, EnginePool, Limits, Sandbox

_log = structlog.get_logger("engine")


class Built(NamedTuple):
    """What the node offers."""

    pools: tuple[EnginePool, ...]
    models: tuple[Model, ...]


class PoolBuilder(Protocol):
    """What `build_pools` does; another one may stand in for it."""

    async def __call__(
        self,
        config: Config,
        sandbox: Sandbox,
        clock: Clock,
        *,
        gpus: Sequence[str] = (),
        room: GpuRoom | None = None,
        progress: Progress = ...,
    ) -> Built: ...


def _silent(_name: str, _done: int, _total: int) -> None:
    pass


async def build_pools(
    config: Config,
    sandbox: Sandbox,
    clock: Clock,
    *,
    gpus: Sequence[str] = (),
    room: GpuRoom | None = None,
    progress: Progress = _silent,
) -> Built:
    """Verify the models and make the pools; nothing is started yet. `gpus`: UUIDs that `device = "auto"` may take;
    `room` tells what they have free.

    Raises ModelError, EngineError, ConfigError.
    """
    store = ModelStore(config.node.cache_dir)
    verified = {model.name: await _verified(store, model, progress) for model in config.models}
    room = room or GpuRoom()
    calibrations = await asyncio.to_thread(_calibrations, config)
    pools: list[EnginePool] = []
    for pool in config.pools:
        model = config.model_named(pool.model)
        if pool.engine is EngineKind.EXTERNAL:
            pools.append(_external(config, pool, verified[pool.model], clock))
            room.expects(pool.name, await asyncio.to_thread(_estimate, model, pool))
        else:
            made = partial(_llama, config, pool, model, verified[pool.model], store, sandbox, clock, gpus, room)
            answers = made(calibrations)
            pools.append(ImprintedPool(answers, made(calibrations, states=True)) if pool.toploc else answers)
    return Built(tuple(pools), tuple(found.facts for found in verified.values()))


def _calibrations(config: Config) -> Calibrations:
    found = shelf(config.proof.calibrations, config.proof.calibration_keys)
    for fault in found.faults:
        _log.warning("calibration.refused", path=str(fault.path), check=fault.check, detail=fault.message)
    return found


async def _verified(store: ModelStore, model: ModelConfig, progress: Progress) -> Verified:
    if model.path is None:
        # Only an external engine has it: its digest is a claim, the owner's or that of the bare name.
        digest = model.digest or ModelManifest(name=model.name).digest
        facts = Model(name=model.name, digest=digest, bytes=0, license=model.license)
        return Verified(ModelManifest(name=model.name), facts)
    return await store.verify(
        model.name,
        model.path,
        chat_template=model.chat_template,
        expected=model.digest,
        license=model.license,
        progress=progress,
    )


def _estimate(model: ModelConfig, pool: PoolConfig) -> Need | None:
    """What the model of an engine that is not ours takes, to stand in `status`; None where its file does not tell."""
    plan = plan_of(pool.slots, pool.context_tokens, 0 if pool.device == CPU else len(pool.device.split("+")), ())
    try:
        return None if model.path is None or plan is None else need(model_shape(model.path), plan)
    except ModelError:
        return None


def _external(config: Config, pool: PoolConfig, model: Verified, clock: Clock) -> ExternalPool:
    if pool.url is None:
        raise ConfigError([f"pools.{pool.name}: an external engine needs a url"])
    profile = PROFILES[pool.profile]
    if strange := [kind for kind in pool.kinds if kind not in profile.kinds]:
        raise ConfigError(
            [f"pools.{pool.name}: {profile.name} does no {' or '.join(strange)} tasks; correct its kinds"]
        )
    settings = ExternalSettings(
        name=pool.name,
        url=pool.url,
        model=pool.model,
        model_digest=model.facts.digest,
        profile=profile,
        device="external" if pool.device == "auto" else pool.device,
        kinds=pool.kinds,
        slots=pool.slots,
        context_tokens=pool.context_tokens,
        api_key_file=pool.api_key_file,
        validates=validates(config, pool),
    )
    return ExternalPool(settings, clock=clock, top_logprobs=config.proof.top_logprobs)


def _llama(
    config: Config,
    pool: PoolConfig,
    model: ModelConfig,
    verified: Verified,
    store: ModelStore,
    sandbox: Sandbox,
    clock: Clock,
    gpus: Sequence[str],
    room: GpuRoom,
    calibrations: Calibrations,
    *,
    states: bool = False,
) -> LlamaPool:
    """`states`: the pool's second engine, which tells hidden states."""
    if model.path is None:
        raise ConfigError([f"pools.{pool.name}: model {model.name} has no path, which llama-server needs"])
    binary, name = find_llama_server(pool.binary), pool.states_name if states else pool.name
    try:
        settings = LlamaSettings(
            name=name,
            binary=binary,
            model=pool.model,
            model_digest=verified.facts.digest,
            weights=model.path,
            chat_template=model.chat_template,
            socket_dir=_socket_dir(config.node.runtime_dir, name),
            gpus=_gpus(pool.device, binary, gpus),
            kinds=pool.kinds,
            slots=1 if states else pool.slots,
            context_tokens=pool.context_tokens,
            threads=pool.threads,
            args=pool.args,
            states=states,
            limits=_limits(config, pool),
        )
    except ValueError as fault:
        raise ConfigError([f"pools.{pool.name}: {fault}"]) from fault

    async def measure() -> EngineFacts:
        # Again before each start: files may have changed since. Unchanged ones are known by their inode.
        await store.verify(
            model.name, settings.weights, chat_template=model.chat_template, expected=verified.facts.digest
        )
        hashes = {file.name: (await store.sha256(file)).sha256 for file in engine_files(binary)}
        return EngineFacts(engine_digest(hashes), processor(Path("/proc/cpuinfo")))

    return LlamaPool(
        settings,
        sandbox=sandbox,
        clock=clock,
        measure=measure,
        placement=Placement(
            room,
            chooses=pool.device == "auto",
            host_memory_bytes=lambda: Host().facts().memory_bytes,
        ),
        calibrations=calibrations,
        top_logprobs=config.proof.top_logprobs,
        validates=validates(config, pool),
    )


def validates(config: Config, pool: PoolConfig) -> bool:
    """Whether this pool checks what other nodes computed."""
    wanted = config.proof.validate if pool.validate is None else pool.validate
    return wanted and PROFILES[pool.profile].replays


def _gpus(device: str, binary: Path, available: Sequence[str]) -> tuple[str, ...]:
    """`auto` takes a GPU only for an engine that can use it: otherwise the pool would claim what it does not do."""
    if device == "auto":
        return tuple(available[:1]) if available and runs_on_nvidia(binary) else ()
    return () if device == "cpu" else tuple(device.split("+"))


def _socket_dir(runtime_dir: Path, pool: str) -> Path:
    path = runtime_dir / "engines" / pool
    make_private_directory(path)
    return path


def _limits(config: Config, pool: PoolConfig) -> Limits:
    sandbox = config.sandbox
    memory = None if sandbox.engine_memory_mib is None else sandbox.engine_memory_mib << 20
    return Limits(
        memory_bytes=memory,
        pids=sandbox.engine_pids,
        cpus=sandbox.engine_cpus,
        tmp_bytes=sandbox.tmp_mib << 20,
        gpu_memory_bytes=None if pool.gpu_memory_mib is None else pool.gpu_memory_mib << 20,
    )


def processor(cpuinfo: Path) -> str:
    """Model and features of the first CPU: the engine picks its kernels by them. Empty where /proc does not tell."""
    try:
        lines = cpuinfo.read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return ""
    told = (line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
    return "\n".join(sorted(told))
