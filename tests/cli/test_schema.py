"""The committed protocol documents are valid, say what the code does, and are up to date."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from agent.cli.contract import documents
from agent.cli.contract.openapi import REQUESTER
from agent.cli.main import run
from agent.core import wire
from agent.core.refusals import STATUS_OF
from tests.core.test_wire import DOWN_FRAMES, UP_FRAMES
from tests.fakes.mind import TestNode

COMMITTED = Path(__file__).parents[2] / "docs" / "schema"
HELLO = wire.UpFrame(seq=0, msg=TestNode().hello("00" * 32))
FRAMES = [HELLO, *UP_FRAMES, *DOWN_FRAMES]


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return {name: json.loads(text) for name, text in documents().items()}


def test_the_committed_documents_are_those_of_the_code() -> None:
    assert {path.name: path.read_text() for path in COMMITTED.iterdir()} == documents()


def test_the_same_code_makes_the_same_bytes() -> None:
    assert documents() == documents()


def test_the_message_schema_is_a_valid_schema(made: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(made["messages.json"])


def test_the_http_document_is_valid_openapi(made: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(made["openapi.json"]).validate()


@pytest.mark.parametrize("name", ["messages.json", "openapi.json", "asyncapi.json"])
def test_every_reference_leads_somewhere(made: dict[str, Any], name: str) -> None:
    for reference in references(made[name]):
        spot = made[name]
        for step in reference.removeprefix("#/").split("/"):
            spot = spot[step]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame.msg).__name__)
def test_what_the_code_sends_fits_every_document(made: dict[str, Any], frame: wire.UpFrame | wire.DownFrame) -> None:
    sent = json.loads(wire.encode(frame))
    Draft202012Validator(made["messages.json"]).validate(sent)
    if isinstance(frame.msg, wire.Cancel | wire.Directed | wire.Nonce):
        sent["re"] = None  # pushed, and the first word, answer nothing
    payload = made["asyncapi.json"]["components"]["messages"][type(frame.msg).__name__]["payload"]
    Draft202012Validator({**payload, "components": made["asyncapi.json"]["components"]}).validate(sent)


@pytest.mark.parametrize(
    "body",
    [
        {"seq": -1, "msg": {"type": "beat"}},
        {"seq": 1, "msg": {"type": "wat"}},
        {"seq": 1},
        {"re": 1, "msg": {"type": "beatack", "lease_ms": -5, "beat_s": 1}},
        {"re": 1, "msg": {"type": "refusal", "code": "because", "message": ""}},
    ],
)
def test_what_the_code_refuses_the_schema_refuses(made: dict[str, Any], body: dict[str, Any]) -> None:
    assert not Draft202012Validator(made["messages.json"]).is_valid(body)
    for decode in (wire.decode_up, wire.decode_down):
        with pytest.raises(msgspec.DecodeError):
            decode(json.dumps(body))


def test_every_message_has_its_route_and_every_refusal_its_status(made: dict[str, Any]) -> None:
    paths = made["openapi.json"]["paths"]
    for message in typing.get_args(wire.UpMessage):
        responses = paths[f"/v1/{wire.tag_of(message)}"]["post"]["responses"]
        assert set(responses) == {"200"} | {str(status) for status in STATUS_OF.values()}


def test_every_message_of_the_stream_is_sent_answered_or_pushed(made: dict[str, Any]) -> None:
    document = made["asyncapi.json"]
    told = set(references(document["operations"]))
    for message in typing.get_args(wire.UpMessage) + typing.get_args(wire.DownMessage):
        assert f"#/channels/link/messages/{message.__name__}" in told


def test_words_beside_fields_and_members_reach_the_reader(made: dict[str, Any]) -> None:
    definitions = made["messages.json"]["$defs"]
    assert definitions["Welcome"]["properties"]["server_time"]["description"].startswith("Unix seconds")
    assert "`stale`: Another lease" in definitions["ReceiptStatus"]["description"]


def test_the_document_has_every_route_that_the_coordinator_serves(made: dict[str, Any]) -> None:
    from agent.devnet.requester_routes import RequesterRoutes

    served = {(route.method.lower(), route.path) for route in RequesterRoutes(None, "").routes()}  # type: ignore[arg-type]
    told = {(route.method, route.path) for route in REQUESTER} | {("get", "/healthz")}
    assert served == told


def test_check_is_quiet_when_nothing_differs_and_names_what_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["schema", "--write", str(tmp_path / "new")]) == 0
    assert run(["schema", "--check", str(tmp_path / "new")]) == 0
    (tmp_path / "new" / "openapi.json").write_text("{}")
    (tmp_path / "new" / "messages.json").unlink()
    assert run(["schema", "--check", str(tmp_path / "new")]) == 1
    told = capsys.readouterr().err
    assert "openapi.json" in told
    assert "messages.json" in told
    assert "asyncapi.json" not in told


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert run(["schema", "--write", str(tmp_path / "file" / "below")]) == 1
    err = capsys.readouterr().err
    assert f"{tmp_path}/file/below cannot be written: Not a directory" in err
    assert "→ Name a directory that you may write to" in err
