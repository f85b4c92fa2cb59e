"""Lays the sources over each other: file, then environment, then `--set`. Values stay raw; `reading` types them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import tomli

from agent.config.faults import Fault
from agent.core.model import Value

PREFIX = "GPU_AGENT_"


class Text(Value):
    """A value from the environment or the command line, not typed yet."""

    text: str

    def parsed(self) -> Any:
        """As a TOML value if it is one; a comma-separated list otherwise."""
        try:
            return tomli.loads(f"value = {self.text}")["value"]
        except tomli.TOMLDecodeError:
            return [part.strip() for part in self.text.split(",")]


class Layers:
    """The merged tree, where each key came from, and faults of addressing."""

    def __init__(self, tree: dict[str, Any], origin: str) -> None:
        self.tree = tree
        self.faults: list[Fault] = []
        self.origins: dict[str, str] = {}
        self._note(tree, "", origin)

    def environment(self, environ: Mapping[str, str]) -> None:
        """Apply `GPU_AGENT_SECTION__KEY`; other names that begin with the prefix are not ours to judge."""
        for name in sorted(environ):
            if name.startswith(PREFIX) and "__" in name:
                path = name.removeprefix(PREFIX).lower().split("__")
                self._put(path, Text(text=environ[name]), f"environment {name}")

    def overrides(self, assignments: Iterable[str]) -> None:
        """Apply `section.key=value`."""
        for assignment in assignments:
            name, equals, value = assignment.partition("=")
            if not equals:
                self.faults.append(Fault(key=name, message="must read section.key=value", origin="--set"))
                continue
            self._put(name.strip().split("."), Text(text=value), "--set")

    def _put(self, path: list[str], value: Text, origin: str) -> None:
        node: Any = self.tree
        key = ""
        for depth, part in enumerate(path[:-1]):
            key = _join(key, part)
            node = _child(node, part, wants_list=path[depth + 1].isdigit())
            if node is None:
                self.faults.append(Fault(key=key, message="names a table that is not there", origin=origin))
                return
        if not isinstance(node, dict) or len(path) < 2:
            self.faults.append(Fault(key=".".join(path), message="must name a section and a key", origin=origin))
            return
        node[path[-1]] = value
        self.origins[_join(key, path[-1])] = origin

    def _note(self, node: Any, key: str, origin: str) -> None:
        """Record the origin of every leaf below `key`."""
        if isinstance(node, dict):
            for name, child in node.items():
                self._note(child, _join(key, name), origin)
        elif isinstance(node, list) and node and all(isinstance(item, dict) for item in node):
            for index, child in enumerate(node):
                self._note(child, f"{key}[{index}]", origin)
        else:
            self.origins[key] = origin


def _join(key: str, part: str) -> str:
    if re.fullmatch(r"\d+", part):
        return f"{key}[{int(part)}]"
    return f"{key}.{part}" if key else part


def _child(node: Any, part: str, *, wants_list: bool) -> Any:
    """The table or list below `node`, made when absent; a list grows only at its end."""
    if isinstance(node, dict):
        return node.setdefault(part, [] if wants_list else {})
    if isinstance(node, list) and part.isdigit() and int(part) <= len(node):
        if int(part) == len(node):
            node.append({})
        return node[int(part)]
    return None
