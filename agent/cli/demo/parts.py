"""Everything that the demo needs, found or made: directories, the model, the engine, a configuration."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from agent.cli.demo.screen import Screen
from agent.config.places import places
from agent.core.errors import AgentError
from agent.core.model import Value
from agent.edges.durable import make_private_directory
from agent.edges.engines.launch import find_llama_server
from agent.edges.models import demo as demo_model
from agent.edges.models.store import ModelStore

POOL, SLOTS, CONTEXT_TOKENS = "cpu", 2, 1024
NODE = "node"
"""The one that answers most of the demo."""

_CONFIG = """\
[node]
name = "{name}"
state_dir = "{home}/{name}"
cache_dir = "{cache}"
runtime_dir = "{runtime}/{name}"
drain_limit_s = 60.0

[coordinator]
url = "{url}"
enrol_token_file = "{home}/{name}.token"

[metrics]
enabled = false

[proof]
validate = {validates}

[logs]
format = "json"

[[models]]
name = "{model}"
path = "{weights}"
chat_template = "{template}"
license = "{license}"

[[pools]]
name = "{pool}"
model = "{model}"
device = "auto"
slots = {slots}
context_tokens = {context}
"""


class Home(Value):
    """Directories of one run. `home` is made anew each time and stays afterwards, to be looked at."""

    home: Path
    cache: Path
    runtime: Path
    """Short, since unix sockets live there; removed at the end."""
    lock: int


def open_home() -> Home:
    """Raises AgentError when another demo is running."""
    cache = places(os.environ, os.geteuid()).cache_dir.path
    make_private_directory(cache)
    lock = os.open(cache / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise AgentError("another demo is running", remedy="Wait for it, or stop it with Ctrl-C") from error
    home = cache / "demo"
    shutil.rmtree(home, ignore_errors=True)
    make_private_directory(home)
    return Home(home=home, cache=cache, runtime=Path(tempfile.mkdtemp(prefix="gpu-agent-")), lock=lock)


def close_home(home: Home) -> None:
    """Remove what has no use afterwards."""
    shutil.rmtree(home.runtime, ignore_errors=True)
    os.close(home.lock)


async def get_model(home: Home, screen: Screen) -> Path:
    """The demo's model, assembled and with the right digest. Raises ModelError, StorageError."""
    with screen.progress() as report:
        path = await demo_model.assemble_demo_model(home.cache / "models", ModelStore(home.cache), report)
    screen.fact("model", f"{demo_model.FILE_NAME}, {path.stat().st_size / 1e6:.0f} MB")
    screen.fact("", f"SHA-256 {demo_model.SHA256[:16]}… as expected; licence: {demo_model.LICENSE}")
    return path


def find_engine(screen: Screen) -> None:
    """Raises EngineError when there is none."""
    screen.fact("engine", find_llama_server("auto").name)


def write_config(home: Home, url: str, token: str, weights: Path, name: str = NODE, *, validates: bool = True) -> Path:
    """The configuration of a node, as an owner would write it, with the token beside it (0600)."""
    private = os.open(home.home / f"{name}.token", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(private, "w") as file:
        file.write(token + "\n")
    path = home.home / f"{name}.toml"
    text = _CONFIG.format(
        name=name,
        validates=str(validates).lower(),
        home=home.home,
        cache=home.cache,
        runtime=home.runtime,
        url=url,
        model=demo_model.NAME,
        weights=weights,
        template=demo_model.CHAT_TEMPLATE,
        license=demo_model.LICENSE,
        pool=POOL,
        slots=SLOTS,
        context=CONTEXT_TOKENS,
    )
    path.write_text(text)
    return path
