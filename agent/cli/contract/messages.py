"""JSON Schema of every message, with the words that stand beside the fields in the code."""

from __future__ import annotations

import ast
import enum
import inspect
import textwrap
import typing
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from agent.core import wire

Schema = dict[str, Any]
SIGNED_PAYLOADS = (wire.OfferBody, wire.ResultBody, wire.ReceiptBody)
"""What stands as text inside `Signed.payload`."""
ENTRIES: tuple[type[msgspec.Struct], ...] = (
    wire.UpFrame,
    wire.DownFrame,
    wire.EnrolRequest,
    wire.EnrolReply,
    wire.ReceiptBundle,
    *SIGNED_PAYLOADS,
)


def json_schema() -> Schema:
    """One document; a frame of either direction validates against it."""
    roots, definitions = components(ENTRIES, "#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:gpu-agent:messages:v1",
        "title": "Messages between a GPU node and its coordinator",
        "description": f"Protocol version {wire.PROTO_MAX}. At most {wire.MAX_MESSAGE_BYTES} bytes a frame.",
        "anyOf": list(roots[:2]),
        "$defs": definitions,
    }


def components(types: Iterable[type], template: str) -> tuple[tuple[Schema, ...], Schema]:
    """References to `types`, and the definitions behind them in the order of their names."""
    entries = tuple(types)
    roots, found = msgspec.json.schema_components(entries, ref_template=template)
    for kind in _reachable(entries):
        if kind.__name__ in found:
            _annotate(found[kind.__name__], kind)
    return roots, {name: found[name] for name in sorted(found)}


def frame(message: type[msgspec.Struct], *, up: bool, template: str) -> Schema:
    """A frame that carries this one message."""
    number = {"seq" if up else "re": {"$ref": template.format(name="Number")}}
    if not up and message.__name__ in PUSHES | {"Nonce"}:
        number = {"re": {"type": "null"}}
    required = ["seq", "msg"] if up else ["msg"]
    return {
        "type": "object",
        "properties": {**number, "msg": {"$ref": template.format(name=message.__name__)}},
        "required": required,
    }


PUSHES = frozenset(kind.__name__ for kind in typing.get_args(wire.Push))
NUMBER: Schema = {"type": "integer", "minimum": 0, "maximum": (1 << 53) - 1}


def _annotate(schema: Schema, kind: type) -> None:
    """Move the words under each field of the class into the schema."""
    if "description" in schema:
        # A docstring keeps the source's indentation up to Python 3.12 only.
        schema["description"] = inspect.cleandoc(schema["description"])
    words = dict(_field_words(kind))
    for name, property_schema in schema.get("properties", {}).items():
        if name in words:
            property_schema["description"] = words[name]
    values = [f"`{getattr(kind, name).value}`: {text}" for name, text in words.items() if issubclass(kind, enum.Enum)]
    if values:
        schema["description"] = "\n".join([schema.get("description", ""), *values]).strip()


def _field_words(kind: type) -> Iterator[tuple[str, str]]:
    """Fields or members of a class, each with the string that follows it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    for before, after in zip(body.body, body.body[1:], strict=False):
        target = before.target if isinstance(before, ast.AnnAssign) else None
        if isinstance(before, ast.Assign):
            target = before.targets[0] if isinstance(before.targets[0], ast.Name) else None
        if isinstance(target, ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield target.id, inspect.cleandoc(str(after.value.value))


def _reachable(types: Iterable[type]) -> set[type]:
    """Every class that the types name, however deep."""
    found: set[type] = set()
    pending: list[Any] = list(types)
    while pending:
        kind = pending.pop()
        pending.extend(argument for argument in typing.get_args(kind) if argument is not Ellipsis)
        if isinstance(kind, type) and kind not in found and issubclass(kind, msgspec.Struct | enum.Enum):
            found.add(kind)
            if issubclass(kind, msgspec.Struct):
                pending.extend(typing.get_type_hints(kind).values())
    return found
