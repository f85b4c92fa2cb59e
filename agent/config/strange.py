"""What somebody may have meant by a name that is none of ours."""

from __future__ import annotations

from typing import get_type_hints

from agent.config.faults import did_you_mean
from agent.config.schema import Config

MOST_SECTIONS = 3
"""Of those that have a key of a name, such as `enabled`."""


def meant(section: str, name: str) -> str:
    """What follows `is no key of ours` (of `section`, such as `pools`) or, without one, `is no section of ours`."""
    known = keys_of(section) if section else Config.__struct_fields__
    prefixed = [word for word in known if len(name) > 2 and word.startswith(name)]
    if near := did_you_mean(name, known) or (prefixed and f'; did you mean "{prefixed[0]}"?'):
        return near
    if there := [_header(other) for other in Config.__struct_fields__ if name in keys_of(other)][:MOST_SECTIONS]:
        return f"; it is a key of {' and of '.join(there)}"
    return f"; {_header(section)} has {', '.join(known)}" if section else f"; sections: {', '.join(known)}"


def keys_of(section: str) -> tuple[str, ...]:
    """Of one section, or of each table of a list of them."""
    hint = get_type_hints(Config)[section]
    fields: tuple[str, ...] = getattr(hint, "__args__", (hint,))[0].__struct_fields__
    return fields


def _header(section: str) -> str:
    return f"[[{section}]]" if section in ("models", "pools") else f"[{section}]"
