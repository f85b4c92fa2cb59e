"""A sandbox cannot lead the agent to another socket of the host."""

import os

import aiohttp
import pytest
from aiohttp import web

from agent.edges.sandbox.sockets import SandboxConnector


@pytest.fixture
async def engine(tmp_path):
    """A path on which an HTTP server listens."""

    async def hello(_request):
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    path = tmp_path / "engine.sock"
    await web.UnixSite(runner, str(path)).start()
    yield path
    await runner.cleanup()


async def test_an_engine_behind_a_plain_socket_answers(engine):
    async with aiohttp.ClientSession(connector=SandboxConnector(engine)) as session:
        assert await (await session.get("http://engine/")).text() == "hello"


async def test_a_socket_replaced_by_a_link_is_refused(engine, tmp_path):
    link = tmp_path / "replaced.sock"
    link.symlink_to(engine)
    async with aiohttp.ClientSession(connector=SandboxConnector(link)) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get("http://engine/")


async def test_every_new_connection_is_checked_again(engine):
    async with aiohttp.ClientSession(connector=SandboxConnector(engine, force_close=True)) as session:
        assert (await session.get("http://engine/")).status == 200
        elsewhere = engine.rename(engine.with_name("victim.sock"))
        engine.symlink_to(elsewhere)
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get("http://engine/")


@pytest.mark.parametrize("kind", ["missing", "file", "directory", "fifo"])
async def test_what_is_not_a_socket_is_refused(tmp_path, kind):
    path = tmp_path / "engine.sock"
    match kind:
        case "file":
            path.write_text("")
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
    async with aiohttp.ClientSession(connector=SandboxConnector(path)) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get("http://engine/")
