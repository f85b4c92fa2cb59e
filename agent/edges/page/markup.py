"""HTML in which no text can be anything but text: whatever is not `Html` is cleaned and escaped on its way in."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from agent.core.text import line

LONGEST = 300
"""Characters of one text; longer ones are cut and end in `…`."""
_VOID = frozenset({"meta", "link"})
"""Elements of ours without content."""


class Html(str):
    """Finished markup. Only this module and constants of the source make one."""

    __slots__ = ()


Child = str | Iterable[str]


def tag(element: str, /, *children: Child, **attributes: str | bool | None) -> Html:
    """An element. `class_` is `class`, `aria_label` is `aria-label`; an attribute that is None or False is left out."""
    opened = element + "".join(
        f" {_attribute(key, value)}" for key, value in attributes.items() if value not in (None, False)
    )
    return Html(f"<{opened}>") if element in _VOID else Html(f"<{opened}>{join(*children)}</{element}>")


def join(*children: Child) -> Html:
    """All children, one after the other."""
    return Html("".join(_text(child) if isinstance(child, str) else join(*child) for child in children))


def _text(text: str) -> str:
    return text if isinstance(text, Html) else escape(line(text, LONGEST))


def _attribute(key: str, value: str | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    return name if value is True else f'{name}="{escape(line(str(value), LONGEST))}"'
