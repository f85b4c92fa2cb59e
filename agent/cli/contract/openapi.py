"""OpenAPI 3.1 of the coordinator's HTTP side: the node's long poll, and the requester's routes."""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from agent.cli.contract.messages import ENTRIES, NUMBER, Schema, components, frame
from agent.core import wire
from agent.core.refusals import STATUS_OF
from agent.devnet import proof_views, streams, views
from agent.devnet.core.asking import TaskAsked
from agent.devnet.node_routes import MESSAGES

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_OCTETS = "application/octet-stream"
_BYTES: Schema = {"required": True, "content": {_OCTETS: {}}}
_SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_EVENTS = (streams.ChunkSeen, streams.Restarted, streams.StateSeen)
_VIEWS = (
    proof_views.Proofs,
    views.TaskView,
    views.Nodes,
    views.Ledger,
    views.Submitted,
    views.Cancelled,
    views.TokenMade,
    views.Health,
)


class Route(NamedTuple):
    """A requester's route."""

    method: str
    path: str
    summary: str
    reply: type[msgspec.Struct] | None = None
    asks: type[msgspec.Struct] | None = None
    status: int = 200
    media: str = _JSON
    """Of the reply when it is no JSON value."""
    uploads: bool = False
    """Takes bytes, under the digest that its path ends in."""


REQUESTER = (
    Route("post", "/v1/tasks", "Queue a task", views.Submitted, TaskAsked, 201),
    Route("put", "/v1/inputs/{sha256}", "Upload a bundle or an input; idempotent", status=201, uploads=True),
    Route("get", "/v1/tasks/{id}", "A task as it is now", views.TaskView),
    Route("delete", "/v1/tasks/{id}", "Cancel a task", views.Cancelled),
    Route("get", "/v1/tasks/{id}/events", "Follow a task until it ends", media="text/event-stream"),
    Route("get", "/v1/tasks/{id}/output", "The output, however large", media="text/plain"),
    Route("get", "/v1/tasks/{id}/artifact", "The archive of what a program left", media="application/x-tar"),
    Route("get", "/v1/tasks/{id}/receipt", "Everything needed to check the task offline", wire.ReceiptBundle),
    Route(
        "get", "/v1/tasks/{id}/proof", "What was opened of it, by which beacon, and the judgement", wire.ReceiptBundle
    ),
    Route("get", "/v1/proofs", "Challenges, newest first, and the nodes' records", proof_views.Proofs),
    Route("get", "/v1/ledger", "What was earned, by whom, for what", views.Ledger),
    Route("get", "/v1/nodes", "Enrolled nodes, with what they offer", views.Nodes),
    Route("post", "/v1/nodes/{id}/directives", "Ask a node to drain, pause or resume", None, wire.Directive),
    Route("post", "/v1/enrol-tokens", "A one-time token that admits one node", views.TokenMade),
)


def openapi() -> Schema:
    """The whole document."""
    _, schemas = components((*ENTRIES, *_EVENTS, *_VIEWS, TaskAsked, wire.Directive), _REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "GPU coordinator",
            "version": f"{wire.PROTO_MAX}",
            "description": "What docs/protocol.md says in words. The WebSocket side is in asyncapi.json.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "https://coordinator.example"}],
        "paths": _paths(),
        "components": {
            "schemas": {**schemas, "Number": NUMBER, "RefusalFrame": frame(wire.Refusal, up=False, template=_REF)},
            "responses": _refusals(),
            "securitySchemes": {
                "session": {"type": "http", "scheme": "bearer", "description": "`session` of the welcome"},
                "requester": {"type": "http", "scheme": "bearer", "description": "The requester's own token"},
            },
        },
    }


def _paths() -> Schema:
    paths: Schema = {
        "/v1/nonce": {"post": _operation("nonce", "Begin a handshake", reply=_down(wire.Nonce))},
        "/v1/hello": {"post": _operation("hello", _said(wire.Hello), body=_up(wire.Hello), reply=_down(wire.Welcome))},
        "/v1/enrol": {
            "post": _operation(
                "enrol", _said(wire.EnrolRequest), body=_ref(wire.EnrolRequest), reply=_ref(wire.EnrolReply)
            )
        },
        "/v1/blobs/{sha256}": {
            "put": _blob(),
            "get": _download(),
        },
        "/healthz": {"get": {"tags": ["operator"], **_operation("health", "Is it alive", reply=_ref(views.Health))}},
    }
    for message in MESSAGES:
        tag, reply = wire.tag_of(message), wire.REPLY_TO.get(message, wire.Ack)
        operation = _operation(tag, _said(message), body=_up(message), reply=_down(reply))
        paths[f"/v1/{tag}"] = {"post": {**operation, "security": [{"session": []}]}}
    for path in paths.values():
        for operation in path.values():
            operation.setdefault("tags", ["node"])
    for route in REQUESTER:
        paths.setdefault(route.path, {})[route.method] = _requester(route)
    return paths


def _operation(
    name: str, summary: str, *, reply: Schema | None, body: Schema | None = None, status: int = 200, media: str = _JSON
) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": name, "summary": summary}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}}}
    answered: dict[str, Any] = {"description": "Done"}
    if reply is not None:
        answered["content"] = {media: {"schema": reply}}
    refused = {str(code): {"$ref": f"#/components/responses/Refused{code}"} for code in sorted(set(STATUS_OF.values()))}
    operation["responses"] = {str(status): answered, **refused}
    return operation


def _requester(route: Route) -> dict[str, Any]:
    name = f"{route.method}-{'-'.join(part.strip('{}') for part in route.path.split('/')[2:])}"
    reply = _ref(route.reply) if route.reply else {"type": "string"}
    if route.media == "text/event-stream":
        reply["description"] = (
            "Events `chunk`, `restarted` and `state` (schemas ChunkSeen, Restarted, StateSeen); the last is `result` "
            "(TaskView). `Last-Event-ID` goes on after a chunk that the follower has."
        )
    body = _ref(route.asks) if route.asks else None
    silent = route.asks is wire.Directive or route.uploads
    operation = _operation(
        name, route.summary, body=body, reply=None if silent else reply, status=route.status, media=route.media
    )
    operation |= {"tags": ["requester"], "security": [{"requester": []}]}
    if route.uploads:
        operation |= {"requestBody": _BYTES, "parameters": [_in_path("sha256", _SHA256)]}
    if "{id}" in route.path:
        operation["parameters"] = [_in_path("id", {"type": "string"})]
    return operation


def _blob() -> dict[str, Any]:
    summary = "Upload an output over 128 KiB, or an artifact, under its own digest; idempotent"
    operation = _operation("blob", summary, reply=None, status=201)
    operation["parameters"] = [_in_path("sha256", _SHA256)]
    operation["requestBody"] = _BYTES
    return {**operation, "security": [{"session": []}]}


def _download() -> dict[str, Any]:
    summary = "A bundle or an input of a task that this node holds"
    operation = _operation("fetch", summary, reply={"type": "string", "format": "binary"}, media=_OCTETS)
    operation["parameters"] = [_in_path("sha256", _SHA256)]
    return {**operation, "security": [{"session": []}]}


def _refusals() -> Schema:
    """One response a status; its codes are listed."""
    by_status = sorted(STATUS_OF.items(), key=lambda pair: (pair[1], pair[0].value))
    made: Schema = {}
    for status, pairs in groupby(by_status, key=lambda pair: pair[1]):
        response: Schema = {
            "description": "Refused: " + ", ".join(f"`{code.value}`" for code, _ in pairs),
            "content": {_JSON: {"schema": {"$ref": _REF.format(name="RefusalFrame")}}},
        }
        if status == 503:
            response["headers"] = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
        made[f"Refused{status}"] = response
    return made


def _in_path(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _up(message: type[msgspec.Struct]) -> Schema:
    return frame(message, up=True, template=_REF)


def _down(message: type[msgspec.Struct]) -> Schema:
    return frame(message, up=False, template=_REF)


def _ref(kind: type[msgspec.Struct]) -> Schema:
    return {"$ref": _REF.format(name=kind.__name__)}


def _said(kind: type) -> str:
    """The first line of the class's own words."""
    return (kind.__doc__ or kind.__name__).split("\n")[0]
