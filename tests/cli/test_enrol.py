"""`gpu-agent enrol` as a real process against a coordinator that speaks the real protocol."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.core import wire
from agent.core.enrolment import Token, reply_digest
from agent.edges.identity import open_identity
from agent.edges.signing import KeyPair
from tests.patience import within

KEYS = KeyPair.generate()
TOKEN = Token(secret="s" * 32, coordinator_key=KEYS.public_key).text


@pytest.fixture
async def coordinator():
    async def enrol(http: web.Request) -> web.Response:
        request = msgspec.json.decode(await http.read(), type=wire.EnrolRequest)
        signature = KEYS.sign(reply_digest(request.token, request.node_key, "node-7"))
        reply = wire.EnrolReply(node_id="node-7", coordinator_key=KEYS.public_key, signature=signature)
        return web.Response(body=wire.encode(reply))

    app = web.Application()
    app.router.add_post("/v1/enrol", enrol)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def gpu_agent(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await within(process.communicate(stdin.encode()))
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_token_on_standard_input_enrols(coordinator: str, tmp_path: Path):
    code, out, err = await gpu_agent(
        "enrol", "--url", coordinator, "--set", f"node.state_dir={tmp_path}", stdin=TOKEN + "\n"
    )
    assert (code, err) == (0, "")
    assert "Enrolled as node-7" in out
    assert open_identity(tmp_path).node_id == "node-7"


async def test_a_token_in_a_file_enrols(coordinator: str, tmp_path: Path):
    (tmp_path / "token").write_text(TOKEN)
    code, _, err = await gpu_agent(
        *("enrol", "--url", coordinator, "--token-file", str(tmp_path / "token")),
        *("--set", f"node.state_dir={tmp_path / 'state'}"),
    )
    assert (code, err) == (0, "")
    assert open_identity(tmp_path / "state").coordinator_key == KEYS.public_key


async def test_without_a_token_or_an_address_it_says_what_is_missing(tmp_path: Path):
    state = ("--set", f"node.state_dir={tmp_path}")
    code, _, err = await gpu_agent("enrol", *state, stdin=TOKEN)
    assert code == 78
    assert "coordinator.url" in err
    code, _, err = await gpu_agent("enrol", "--url", "http://127.0.0.1:1", *state, stdin="nonsense")
    assert code == 77
    assert "not an enrolment token" in err
    code, _, err = await gpu_agent("enrol", "--url", "http://127.0.0.1:1", "--token-file", str(tmp_path / "no"), *state)
    assert code == 77
    assert "cannot be read" in err


async def test_an_unreachable_coordinator_is_told_so(tmp_path: Path, unused_tcp_port: int):
    url = f"http://127.0.0.1:{unused_tcp_port}"
    code, _, err = await gpu_agent("enrol", "--url", url, "--set", f"node.state_dir={tmp_path}", stdin=TOKEN)
    assert code == 69
    assert "failed (POST enrol)" in err
