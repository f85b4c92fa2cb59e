"""The daemon on a fake driver, with its owner's page: the same as `status`, while it works and while it may not."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

import aiohttp
import msgspec
import pytest

from agent.core.status import Status
from agent.edges.page.screen import document
from tests.edges.test_page import Page
from tests.fakes.nvml.build import Builder, compiler
from tests.fakes.nvml.scenario import load
from tests.scenarios.engine import HeldEngine
from tests.scenarios.test_gpus import HOSTS, on_driver
from tests.scenarios.world import PATIENCE_S, World, external

PAGE = '[page]\nenabled = true\nlisten = "127.0.0.1:0"\n'


async def read(url: str, *wanted: str) -> Page:
    """The page, once all of this stands on it."""
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
        while True:
            async with session.get(url) as answer:
                found = Page(await answer.text())
            if all(words in found.text for words in wanted):
                return found
            await asyncio.sleep(0.05)


def timeless(page: Page) -> str:
    return re.sub(r"\d+( (min|s|h))*", "#", page.text)


@pytest.mark.skipif(compiler() is None, reason="no C compiler here, so the driver cannot be faked as a real library")
async def test_the_page_tells_what_status_tells_and_nothing_of_what_was_asked(
    world: World, engine: HeldEngine, tmp_path: Path
) -> None:
    driver = Builder(tmp_path).place(load(HOSTS / "geforce.ini"), world.home / "driver")
    agent = await world.agent(external(engine.url) + PAGE, start=False)
    await on_driver(agent, driver)
    url = (await agent.saw("page.served"))["url"]
    node = await world.ready(agent)
    assert node.fingerprint is not None
    await read(url, "GeForce", "healthy", "°C", "Ready")

    engine.tokens = ["Alabaster", " basalt", " chalk"]
    engine.open.clear()
    task = await world.ask(node.fingerprint.pools[0].model_digest, "a secret question", max_tokens=9)
    busy = await read(url, f"{task} running held 1 of at most 9 tokens")
    assert "Working on 1 task" in busy.text
    engine.open.set()
    await world.requester.result(task)
    await read(url, f"{task} succeeded completed held")

    assert (await agent.verb("pause", "--for", "2h"))[0] == 0
    shut = await read(url, "paused", "for another 1 h 59 min")
    told = msgspec.json.decode((await agent.verb("status", "--json"))[1], type=Status)
    assert timeless(shut) == timeless(Page(document(told, 0.0)))
    assert told.page == url
    assert not any(words in shut.text for words in ("secret question", *engine.tokens))

    agent.config.write_text(agent.config.read_text().replace(PAGE, ""))
    agent.signal(signal.SIGHUP)
    assert "needs_restart" not in await agent.saw("config.reloaded")
    with pytest.raises(aiohttp.ClientConnectionError):
        await read(url, "never")  # until it is closed
