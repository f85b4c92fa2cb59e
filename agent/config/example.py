"""`config.example.toml`, made from the schema: every key with its sentence and its default, commented out."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import msgspec.inspect as mi

from agent.config.faults import choices
from agent.config.schema import Config
from agent.core.model import Value

HEAD = """\
# Configuration of gpu-agent. Every key is optional and shown with its default, or with an example where it
# has none. Precedence: --set section.key=value, then the environment (GPU_AGENT_SECTION__KEY), then this file.
# Secrets never stand here: keys and tokens are files of mode 0600. Check with: gpu-agent config check
"""


def example() -> str:
    """The whole text. A valid configuration that changes nothing."""
    hints = get_type_hints(Config)
    blocks = []
    for field in msgspec.structs.fields(Config):
        listed = isinstance(field.default, tuple)
        cls = hints[field.name].__args__[0] if listed else hints[field.name]
        blocks.append("\n".join(_section(field.name, cls, listed=listed)))
    return HEAD + "\n" + "\n\n".join(blocks) + "\n"


def toml(value: Any) -> str:
    """`value` as TOML text."""
    match value:
        case bool():
            return str(value).lower()
        case Enum() | Path() | str():
            return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
        case tuple() | list():
            return "[" + ", ".join(toml(item) for item in value) + "]"
        case _:
            return str(value)


def _section(name: str, cls: type[Value], *, listed: bool) -> Iterator[str]:
    yield f"# {(cls.__doc__ or '').strip()}" + (" Repeat the block for more." if listed else "")
    yield f"# [[{name}]]" if listed else f"[{name}]"
    hints = get_type_hints(cls, include_extras=True)
    for field in msgspec.structs.fields(cls):
        kind = mi.type_info(hints[field.name])
        extra = (kind.extra if isinstance(kind, mi.Metadata) else None) or {}
        default = None if field.required else field.default
        words = list(choices(kind)) if isinstance(default, Enum) else []
        yield f"# {extra['doc']}" + (f" One of: {', '.join(words)}." if len(words) > 1 else "")
        sample = extra["example"] if default is None or default == "" else default
        yield f"# {field.name} = {toml(sample)}"
