"""AsyncAPI 3.0 of the stream, seen from the node: what it sends, what answers, and what is pushed to it."""

from __future__ import annotations

import typing
from typing import Any

import msgspec

from agent.cli.contract.messages import ENTRIES, NUMBER, Schema, components, frame
from agent.core import wire

_REF = "#/components/schemas/{name}"
_CHANNEL = {"$ref": "#/channels/link"}


def asyncapi() -> Schema:
    """The whole document."""
    _, schemas = components(ENTRIES, _REF)
    ups, downs = typing.get_args(wire.UpMessage), typing.get_args(wire.DownMessage)
    messages = {kind.__name__: _message(kind, up=True) for kind in ups}
    messages |= {kind.__name__: _message(kind, up=False) for kind in downs}
    return {
        "asyncapi": "3.0.0",
        "id": "urn:gpu-agent:link:v1",
        "info": {
            "title": "GPU node",
            "version": f"{wire.PROTO_MAX}",
            "description": "A node's stream to its coordinator; docs/protocol.md has the story.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "coordinator": {
                "host": "coordinator.example",
                "protocol": "wss",
                "description": "TLS 1.2 or later; plain ws to loopback alone.",
            }
        },
        "channels": {"link": _link(sorted(messages))},
        "operations": _operations(ups),
        "components": {"messages": messages, "schemas": {**_plain(schemas), "Number": NUMBER}},
    }


def _link(messages: list[str]) -> Schema:
    return {
        "address": "/v1/link",
        "description": f"Text frames of at most {wire.MAX_MESSAGE_BYTES} bytes, without compression.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "ws": {
                "method": "GET",
                "headers": {
                    "type": "object",
                    "properties": {"Sec-WebSocket-Protocol": {"type": "string", "const": wire.SUBPROTOCOL}},
                    "required": ["Sec-WebSocket-Protocol"],
                },
            }
        },
    }


def _operations(ups: tuple[type[wire.Up], ...]) -> Schema:
    made: Schema = {
        "greeted": {
            "action": "receive",
            "channel": _CHANNEL,
            "summary": "The coordinator speaks first, with a nonce to sign.",
            "messages": [_in_channel("Nonce")],
        },
        "pushed": {
            "action": "receive",
            "channel": _CHANNEL,
            "summary": "What the coordinator sends unasked; `re` is null.",
            "messages": [_in_channel(kind.__name__) for kind in typing.get_args(wire.Push)],
        },
    }
    for kind in ups:
        operation: Schema = {
            "action": "send",
            "channel": _CHANNEL,
            "summary": (kind.__doc__ or "").split("\n")[0],
            "messages": [_in_channel(kind.__name__)],
        }
        answers: list[type[wire.Down]] = (
            [wire.REPLY_TO[kind], wire.Refusal] if kind in wire.REPLY_TO else [wire.Refusal]
        )
        operation["reply"] = {"channel": _CHANNEL, "messages": [_in_channel(answer.__name__) for answer in answers]}
        made[wire.tag_of(kind)] = operation
    return made


def _message(kind: type[msgspec.Struct], *, up: bool) -> Schema:
    message: Schema = {
        "name": kind.__name__,
        "summary": (kind.__doc__ or "").split("\n")[0],
        "payload": frame(kind, up=up, template=_REF),
    }
    if up:
        message["correlationId"] = {"description": "The reply's `re`.", "location": "$message.payload#/seq"}
    return message


def _plain(node: Any) -> Any:
    """Without OpenAPI's discriminator objects, which AsyncAPI reads as something else; the tags tell as much."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items() if key != "discriminator" or isinstance(value, str)}
    return [_plain(item) for item in node] if isinstance(node, list) else node


def _in_channel(name: str) -> Schema:
    return {"$ref": f"#/channels/link/messages/{name}"}
