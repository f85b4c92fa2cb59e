"""A whole network in a test: the embedded coordinator, agents as processes, a requester."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.core.model import ChatInput, Message
from agent.devnet.core.asking import Asked, SamplingAsked
from agent.devnet.requester import Requester
from agent.devnet.views import NodeView
from agent.edges.sandbox.bubblewrap import Bubblewrap
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parent.parent.parent


class AgentProcess:
    """`gpu-agent run`, with its log read as it comes."""

    program: tuple[str, ...] = ("-m", "agent")
    """What Python runs."""
    environment: Mapping[str, str] = {}
    """On top of ours."""

    def __init__(self, home: Path, pools: str, *, url: str, token: str, **node: Any) -> None:
        self.home = home
        self.runtime = Path(tempfile.mkdtemp(prefix="ga-"))
        self.config = home / "config.toml"
        self.lines: list[dict[str, Any]] = []
        self.noise: list[str] = []
        """Lines that are no JSON: none is ever expected."""
        self._heard = asyncio.Condition()
        home.mkdir(exist_ok=True)
        (home / "token").write_text(token)
        settings = "\n".join(f"{key} = {json.dumps(value)}" for key, value in node.items())
        self.config.write_text(
            f'[node]\nname = "{home.name}"\nstate_dir = "{home}/state"\ncache_dir = "{home}/cache"\n'
            f'runtime_dir = "{self.runtime}"\n{settings}\n'
            f'[coordinator]\nurl = "{url}"\nenrol_token_file = "{home}/token"\n'
            f'[gpu]\nenabled = false\n[metrics]\nenabled = false\n[logs]\nformat = "json"\nlevel = "debug"\n{pools}'
        )

    async def start(self, *arguments: str) -> AgentProcess:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self.program, "run", "--config", str(self.config), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith("GPU_AGENT_")} | dict(self.environment),
            limit=1 << 20,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while raw := await self.process.stdout.readline():
            try:
                self.lines.append(json.loads(raw))
                self.took(self.lines[-1])
            except ValueError:
                self.noise.append(raw.decode(errors="replace").rstrip())
            async with self._heard:
                self._heard.notify_all()
        async with self._heard:
            self._heard.notify_all()

    def took(self, line: dict[str, Any]) -> None:
        """Another line of the log came."""

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("event") == name]

    async def saw(self, event: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for a log line, while the agent runs."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.events(event) if fields.items() <= line.items()]

        with contextlib.suppress(TimeoutError):
            async with self._heard, asyncio.timeout(PATIENCE_S):
                await self._heard.wait_for(lambda: len(found()) >= count or self._lines_end())
        if len(found()) < count:
            raise AssertionError(f"{event} {fields} was not logged:\n{self.story()}")
        return found()[count - 1]

    def _lines_end(self) -> bool:
        return self.process.stdout is None or self.process.stdout.at_eof()

    def story(self) -> str:
        """Whether it runs, and what it said last."""
        status = f"{self.home.name}: exit status {self.process.returncode}"
        return "\n".join([status, *(json.dumps(line) for line in self.lines[-40:]), *self.noise])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            status = await self.process.wait()
            await self._reading
        return status

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.ended()

    async def killed(self) -> None:
        """It runs no more, however that came."""
        if hasattr(self, "process") and self.process.returncode is None:
            await self.kill()

    async def discard(self) -> None:
        """It runs no more, and nothing is left that a killed agent leaves to its next start."""
        try:
            await self.killed()
        finally:
            await asyncio.to_thread(Bubblewrap(self.runtime).reap_orphans)
            shutil.rmtree(self.runtime, ignore_errors=True)

    async def verb(self, *arguments: str) -> tuple[int, str]:
        """Another gpu-agent command with this node's configuration."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent", arguments[0], "--config", str(self.config), *arguments[1:]),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=ROOT,
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()


class World:
    """Makes agents and ends them; asks as a requester does."""

    def __init__(self, url: str, requester: Requester, token: Callable[[], str], home: Path) -> None:
        self.url = url
        self.requester = requester
        self._token = token
        self.home = home
        self.agents: list[AgentProcess] = []

    async def agent(
        self, pools: str, *, name: str = "node", start: bool = True, url: str = "", **node: Any
    ) -> AgentProcess:
        """`url`: another way to the coordinator."""
        agent = AgentProcess(self.home / name, pools, url=url or self.url, token=self._token(), **node)
        self.agents.append(agent)
        if start:
            await agent.start()
        return agent

    async def close(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for agent in self.agents:
                stack.push_async_callback(agent.discard)

    async def ready(self, agent: AgentProcess) -> NodeView:
        """The coordinator's view of the node, once all its pools are ready."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for node in (await self.requester.nodes()).nodes:
                    pools = node.fingerprint.pools if node.fingerprint else ()
                    if node.name == agent.home.name and pools and all(pool.ready for pool in pools):
                        return node
                if agent.process.returncode is not None:
                    raise AssertionError(f"the agent ended:\n{agent.story()}")
                await asyncio.sleep(0.05)

    async def ask(
        self,
        model: str,
        asked: Asked | str = "hi",
        *,
        max_tokens: int = 16,
        deadline_s: float | None = None,
        **sampling: Any,
    ) -> str:
        if isinstance(asked, str):
            asked = ChatInput(messages=(Message(role="user", content=asked),))
        options = SamplingAsked(**{"min_p_micros": 0, **sampling})
        return await self.requester.submit(model, asked, max_tokens=max_tokens, sampling=options, deadline_s=deadline_s)


def external(url: str, *, slots: int = 2) -> str:
    """Configuration of a pool on a HeldEngine."""
    digest = "sha256:" + "ab" * 32
    model = f'[[models]]\nname = "held"\ndigest = "{digest}"\n'
    pool = f'[[pools]]\nname = "held"\nmodel = "held"\nengine = "external"\nprofile = "vllm"\nurl = "{url}"\n'
    return f'{model}{pool}slots = {slots}\nkinds = ["chat"]\n'
