"""Turns the raw tree into a `Config`, key by key, so that one bad key hides no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import msgspec
import msgspec.inspect as mi

from agent.config.faults import Fault, choices, did_you_mean, expectation, shown
from agent.config.layers import Text
from agent.config.schema import Config
from agent.config.strange import meant
from agent.core.model import Value

SectionT = TypeVar("SectionT", bound=Value)
_UNUSABLE = object()


class Reading:
    """One pass over a raw tree. `faults` fills up; unusable keys fall back to their default."""

    def __init__(self, base: Path, home: Path) -> None:
        """Relative paths of the file are taken from `base`, those of other sources from the working directory."""
        self.faults: list[Fault] = []
        self._base = base
        self._home = home

    def config(self, tree: dict[str, Any]) -> Config:
        """The whole configuration."""
        self._refuse_unknown(Config, tree, "")
        sections: dict[str, Any] = {}
        for field in msgspec.structs.fields(Config):
            if field.name not in tree:
                continue
            if isinstance(field.default, tuple):
                sections[field.name] = self._sections(_item_of(field.name), tree[field.name], field.name)
            else:
                sections[field.name] = self._section(type(field.default), tree[field.name], field.name)
        return Config(**sections)

    def _sections(self, cls: type[SectionT], raw: Any, key: str) -> tuple[SectionT, ...]:
        if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
            self._fault(key, f"must be a list of tables: write [[{key}]]")
            return ()
        return tuple(self._section(cls, item, f"{key}[{index}]") for index, item in enumerate(raw))

    def _section(self, cls: type[SectionT], raw: Any, key: str) -> SectionT:
        if not isinstance(raw, dict):
            self._fault(key, f"must be a table: write [{key}] and its keys below")
            raw = {}
        self._refuse_unknown(cls, raw, key)
        hints = get_type_hints(cls, include_extras=True)
        values: dict[str, Any] = {}
        for field in msgspec.structs.fields(cls):
            if field.name in raw:
                value = self._value(hints[field.name], raw[field.name], f"{key}.{field.name}")
            elif field.required:
                self._fault(f"{key}.{field.name}", "is missing")
                value = _UNUSABLE
            else:
                continue
            if value is not _UNUSABLE:
                values[field.name] = value
            elif field.required:
                values[field.name] = ""  # a placeholder: the fault is noted, and the checks skip this section
        return cls(**values)

    def _value(self, hint: Any, raw: Any, key: str) -> Any:
        kind = mi.type_info(hint)
        value, base, strict = raw, self._base, True
        if isinstance(raw, Text):
            value, base, strict = raw.parsed() if _is_list(kind) else raw.text, Path.cwd(), False

        def path_of(cls: type, text: Any) -> Any:
            if cls is not Path or not isinstance(text, str) or not text or "\x00" in text:
                raise ValueError
            return base / (self._home / text[2:] if text.startswith("~/") else Path(text))

        try:
            return msgspec.convert(value, hint, strict=strict, dec_hook=path_of)
        except (msgspec.ValidationError, ValueError):
            near = did_you_mean(value, choices(kind))
            self._fault(key, f"must be {expectation(kind)}; it is {shown(value)}{near}")
            return _UNUSABLE

    def _refuse_unknown(self, cls: type[Value], raw: dict[str, Any], key: str) -> None:
        known = cls.__struct_fields__
        for name in raw:
            if name not in known:
                what = "key" if key else "section"
                section = key.partition("[")[0]
                self._fault(f"{key}.{name}" if key else name, f"is no {what} of ours{meant(section, name)}")

    def _fault(self, key: str, message: str) -> None:
        self.faults.append(Fault(key=key, message=message))


def _item_of(section: str) -> type[Value]:
    """The class of the items of a list section."""
    hint = get_type_hints(Config)[section]
    return cast("type[Value]", hint.__args__[0])


def _is_list(kind: mi.Type) -> bool:
    return isinstance(kind.type if isinstance(kind, mi.Metadata) else kind, mi.VarTupleType)
