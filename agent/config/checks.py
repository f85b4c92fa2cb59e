"""Faults that show only when keys are seen together."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from agent.config.faults import Fault, did_you_mean
from agent.config.schema import Config
from agent.config.sections.owner import OwnerConfig
from agent.config.sections.work import EngineKind, EngineProfile, PoolConfig
from agent.core.engines import PROFILES
from agent.core.loopback import is_loopback
from agent.core.model import TaskKind
from agent.core.schedule import parse_window

EXEC_POOL = "exec"
"""Name of the pool that runs programs."""


def check(config: Config) -> Iterator[Fault]:
    """Every contradiction in `config`. Empty names stand for keys that are already reported."""
    yield from _coordinator_url(config.coordinator.url)
    yield from _unique("models", [model.name for model in config.models])
    yield from _unique("pools", [pool.name for pool in config.pools])
    yield from _exec(config)
    yield from _owner(config.owner)
    yield from _listen("metrics.listen", config.metrics.listen)
    yield from _listen("page.listen", config.page.listen, loopback_only=True)
    for index, model in enumerate(config.models):
        if model.path is None and model.digest is None:
            yield Fault(key=f"models[{index}].path", message="is missing; without it the digest must be given")
    for index, pool in enumerate(config.pools):
        yield from _model_of(config, pool, f"pools[{index}]")
        yield from (_external if pool.engine is EngineKind.EXTERNAL else _own)(pool, f"pools[{index}]")
        yield from _kinds(pool, f"pools[{index}]")
        yield from _devices(pool, f"pools[{index}]")
        if pool.toploc:
            yield from _toploc(pool, f"pools[{index}].toploc")
            yield from _apart(config, pool, f"pools[{index}]")


def _exec(config: Config) -> Iterator[Fault]:
    if not config.exec.enabled:
        return
    if not config.exec.trusted_keys:
        yield Fault(key="exec.trusted_keys", message="is empty; programs of nobody would be run")
    if config.exec.device != "cpu" and config.exec.slots > 1:
        yield Fault(key="exec.slots", message="must be 1 with a GPU: nothing keeps two programs on one apart")
    for index, pool in enumerate(config.pools):
        if pool.name == EXEC_POOL:
            yield Fault(key=f"pools[{index}].name", message=f'"{EXEC_POOL}" is the pool of programs')
        if config.exec.device != "cpu" and config.exec.device in pool.device.split("+"):
            yield Fault(key="exec.device", message=f"is the GPU of pools[{index}]; nothing keeps the two apart on it")


def _owner(owner: OwnerConfig) -> Iterator[Fault]:
    for index, text in enumerate(owner.schedule):
        try:
            parse_window(text)
        except ValueError as error:
            yield Fault(key=f"owner.schedule[{index}]", message=f"is no window: {error}")
    if owner.time_zone is not None and not _is_zone(owner.time_zone):
        yield Fault(key="owner.time_zone", message=f"is {owner.time_zone!r}; expected a name such as Europe/Berlin")
    for limit, margin in (("max_temperature_c", "cool_down_c"), ("max_power_w", "power_margin_w")):
        most = getattr(owner, limit)
        if most is not None and getattr(owner, margin) >= most:
            yield Fault(key=f"owner.{margin}", message=f"must be below owner.{limit}")


def _is_zone(name: str) -> bool:
    import zoneinfo  # noqa: PLC0415  (with its tables, only for who names a zone)

    return name in zoneinfo.available_timezones()


def _listen(key: str, listen: str, *, loopback_only: bool = False) -> Iterator[Fault]:
    parts = _split(f"//{listen}")
    if parts is None or not parts.hostname or parts.port is None or parts.netloc != listen or parts.username:
        yield Fault(key=key, message=f"is {listen!r}; expected address:port, as 127.0.0.1:9410")
    elif loopback_only and not is_loopback(parts.hostname):
        yield Fault(key=key, message=f"is {listen!r}; this is served on loopback alone, as 127.0.0.1:9411")


def _coordinator_url(url: str | None) -> Iterator[Fault]:
    if url is None:
        return
    parts = _split(url)
    if parts is None or parts.scheme not in {"http", "https", "ws", "wss"} or not parts.hostname:
        yield Fault(key="coordinator.url", message="must look like https://coordinator.example")
    elif parts.username or parts.password or parts.query or parts.fragment:
        yield Fault(key="coordinator.url", message="must not carry a user, a password, a query or a fragment")
    else:
        yield from _plain_only_to_loopback("coordinator.url", parts)


def _plain_only_to_loopback(key: str, parts: SplitResult) -> Iterator[Fault]:
    if parts.scheme in {"http", "ws"} and not is_loopback(parts.hostname or ""):
        secure = {"http": "https", "ws": "wss"}[parts.scheme]
        yield Fault(key=key, message=f"{parts.scheme}:// is allowed to this machine only; use {secure}://")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises on a port that is no number below 65536
    except ValueError:
        return None
    return parts


def _unique(section: str, names: list[str]) -> Iterator[Fault]:
    for index, name in enumerate(names):
        if name and name in names[:index]:
            yield Fault(key=f"{section}[{index}].name", message=f'"{name}" is taken by {section}[{names.index(name)}]')


def _model_of(config: Config, pool: PoolConfig, key: str) -> Iterator[Fault]:
    names = [model.name for model in config.models]
    if not pool.model or (pool.model not in names and "" in names):
        return
    if pool.model not in names:
        there = did_you_mean(pool.model, names) or f"; models: {', '.join(filter(None, names)) or 'none'}"
        yield Fault(key=f"{key}.model", message=f'no model is called "{pool.model}"{there}')
    elif pool.engine is not EngineKind.EXTERNAL and config.model_named(pool.model).path is None:
        yield Fault(key=f"{key}.model", message=f'model "{pool.model}" has no path, and this engine needs the file')


def _own(pool: PoolConfig, key: str) -> Iterator[Fault]:
    for name, given in (("url", pool.url), ("api_key_file", pool.api_key_file)):
        if given is not None:
            yield Fault(key=f"{key}.{name}", message='is for pools with engine = "external" only')
    if pool.profile is not EngineProfile.LLAMA_SERVER:
        yield Fault(key=f"{key}.profile", message='must be "llama-server", or set engine = "external"')


def _external(pool: PoolConfig, key: str) -> Iterator[Fault]:
    if pool.binary != "auto":
        yield Fault(key=f"{key}.binary", message="the agent does not start an external engine; remove it")
    if pool.args:
        yield Fault(key=f"{key}.args", message="the agent does not start an external engine; remove them")
    if pool.gpu_memory_mib is not None:
        yield Fault(key=f"{key}.gpu_memory_mib", message="the agent does not start an external engine; remove it")
    if pool.url is None:
        yield Fault(key=f"{key}.url", message="is missing; an external engine needs its address")
        return
    if pool.url.startswith("unix:/"):
        return
    parts = _split(pool.url)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        yield Fault(key=f"{key}.url", message="must look like http://127.0.0.1:8000, https://… or unix:/path")
    elif parts.username or parts.password:
        yield Fault(key=f"{key}.url", message="must not carry a user or a password; use api_key_file")
    else:
        yield from _plain_only_to_loopback(f"{key}.url", parts)


def _devices(pool: PoolConfig, key: str) -> Iterator[Fault]:
    uuids = pool.device.split("+")
    if len(set(uuids)) < len(uuids):
        yield Fault(key=f"{key}.device", message="names a GPU twice")


def _toploc(pool: PoolConfig, key: str) -> Iterator[Fault]:
    if pool.engine is EngineKind.EXTERNAL:
        yield Fault(key=key, message="an external engine tells no hidden states; a llama-server of the agent's does")
    elif TaskKind.EMBEDDING in pool.kinds:
        yield Fault(key=key, message="is of generated tokens, and this pool makes embeddings; remove it")
    elif pool.device != "cpu":
        yield Fault(key=key, message='needs device = "cpu": a GPU has no memory set aside for a second engine')


def _apart(config: Config, pool: PoolConfig, key: str) -> Iterator[Fault]:
    for index, other in enumerate(config.pools):
        if other.name == pool.states_name:
            yield Fault(key=f"pools[{index}].name", message=f'"{other.name}" is the second engine of {key}')


def _kinds(pool: PoolConfig, key: str) -> Iterator[Fault]:
    if TaskKind.EXEC in pool.kinds:
        yield Fault(key=f"{key}.kinds", message="an engine runs no programs; they have a section of their own, [exec]")
    if TaskKind.VERIFY in pool.kinds:
        yield Fault(key=f"{key}.kinds", message="checking other nodes is no kind of its own; set validate = true")
    if pool.validate and not PROFILES[pool.profile].replays:
        yield Fault(key=f"{key}.validate", message=f"{pool.profile.value} cannot repeat what another engine said")
    if TaskKind.EMBEDDING in pool.kinds and len(set(pool.kinds)) > 1:
        yield Fault(key=f"{key}.kinds", message="an engine embeds or generates; make two pools")
    if pool.profile is EngineProfile.TEI and TaskKind.EMBEDDING not in pool.kinds:
        yield Fault(key=f"{key}.kinds", message='must be ["embedding"] with profile = "tei"')
