"""Starting, stopping, being killed, and running out of disk."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.core import wire
from agent.core.errors import IdentityError, StorageError
from agent.core.model import ChatInput, Message
from agent.devnet.coordinator import Coordinator, Options, StartError
from agent.devnet.core.records import TaskState
from agent.devnet.core.rules import Refused
from agent.devnet.requester import Requester
from agent.devnet.views import TaskView
from tests import builders
from tests.devnet.node import ScriptedNode
from tests.patience import PATIENCE_S, within

ASK = ChatInput(messages=(Message(role="user", content="Name a colour."),))


class Process:
    """`gpu-agent coordinator` as a process."""

    def __init__(self, process: asyncio.subprocess.Process, lines: list[str]) -> None:
        self.process = process
        self.url = lines[0].removeprefix("serving ")
        self.key = lines[1].removeprefix("coordinator key ")

    async def kill(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def started(state_dir: Path, *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent", "coordinator", "--state-dir", str(state_dir), *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout
        async with asyncio.timeout(PATIENCE_S):
            lines = [(await process.stdout.readline()).decode().strip() for _ in range(4)]
        yield Process(process, lines)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def port_of(url: str) -> str:
    return url.rpartition(":")[2]


async def test_kill_9_loses_no_task_no_lease_and_no_receipt(tmp_path: Path) -> None:
    state, tokens = tmp_path / "state", tmp_path / "token"
    async with started(state, "--token-file", str(tokens)) as first:
        token = (state / "requester.token").read_text().strip()
        async with (
            Requester(first.url, token) as requester,
            ScriptedNode(first.url, first.key) as node,
        ):
            await node.join(tokens.read_text().strip())
            done, running, waiting = [await requester.submit(builders.MODEL, ASK, max_tokens=16) for _ in range(3)]
            settled, held = await node.pull(2)
            await node.start(held)
            receipt = await node.deliver(node.actor.success(settled))
            assert await first.kill(signal.SIGKILL) == -signal.SIGKILL
            await node.hang_up()

            async with started(state, "--port", port_of(first.url)) as again:
                assert (again.url, again.key) == (first.url, first.key)
                expired = await node.post("/v1/beat", wire.UpFrame(seq=900, msg=wire.Beat()))
                assert (expired.status, expired.code) == (401, "session_expired")
                welcome = await node.hello(running=(held.key,))
                assert welcome.wanted == (held.key,)
                duplicate = await node.deliver(node.actor.success(settled))
                assert (duplicate.status, duplicate.receipt_id) == ("duplicate", receipt.receipt_id)
                assert (await node.deliver(node.actor.success(held))).status is wire.ReceiptStatus.ACCEPTED
                (last,) = await node.pull(5)
                assert (last.task.task_id, last.fence > held.fence) == (waiting, True)
                assert {line.task_id for line in (await requester.ledger()).lines} == {done, running}
                assert await again.kill(signal.SIGTERM) == 0


async def test_a_follower_survives_a_restart_of_the_coordinator(tmp_path: Path) -> None:
    async with Coordinator(tmp_path) as first:
        port = int(port_of(first.url))
        token = first.enrol_token()
        async with Requester(first.url, first.requester_token) as requester, asyncio.TaskGroup() as group:
            task_id = await requester.submit(builders.MODEL, ASK, max_tokens=16)
            following = group.create_task(requester.result(task_id))
            await first.__aexit__(None, None, None)
            async with (
                Coordinator(tmp_path, port=port) as second,
                ScriptedNode(second.url, second.public_key) as node,
            ):
                await node.join(token)
                (offer,) = await node.pull()
                await node.deliver(node.actor.success(offer))
                view = await within(following)
    assert isinstance(view, TaskView)
    assert view.output == "Blue."


async def test_a_taken_port_is_told_with_a_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"port {port} on 127\.0\.0\.1 is taken.*another port"):
            async with Coordinator(tmp_path, port=port):
                pass
    async with Coordinator(tmp_path, port=port):
        pass


async def test_two_coordinators_never_share_a_state_directory(tmp_path: Path) -> None:
    async with Coordinator(tmp_path):
        with pytest.raises(StartError, match="another coordinator uses"):
            async with Coordinator(tmp_path):
                pass


async def test_plain_text_is_served_on_loopback_only(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="without TLS"):
        async with Coordinator(tmp_path, host="0.0.0.0"):
            pass


@pytest.mark.parametrize("missing", ["tls_cert", "tls_key"])
async def test_tls_needs_both_halves(tmp_path: Path, missing: str) -> None:
    options = Options(**{"tls_cert": tmp_path / "c", "tls_key": tmp_path / "k", missing: None})
    with pytest.raises(StartError, match="both"):
        async with Coordinator(tmp_path, options=options):
            pass


async def test_tls_is_served_with_a_certificate(tmp_path: Path) -> None:
    import ssl

    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with Coordinator(tmp_path / "state", options=Options(tls_cert=cert, tls_key=key)) as coordinator:
        assert coordinator.url.startswith("https://127.0.0.1:")
        async with Requester(coordinator.url, coordinator.requester_token, tls=trust) as requester:
            assert (await requester.ledger()).lines == ()


async def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    async with Coordinator(tmp_path / "state"):
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir() if path.is_file()
        }
    assert all(mode == 0o600 for mode in modes.values()), modes
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


async def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    async with Coordinator(tmp_path):
        pass
    (tmp_path / "coordinator.key").chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        async with Coordinator(tmp_path):
            pass


async def test_the_key_and_the_requester_token_stay_over_a_restart(tmp_path: Path) -> None:
    kept = []
    for _ in range(2):
        async with Coordinator(tmp_path) as coordinator:
            kept.append((coordinator.public_key, coordinator.requester_token))
    assert kept[0] == kept[1]


async def test_a_damaged_store_is_told_and_nothing_is_served(tmp_path: Path) -> None:
    (tmp_path / "coordinator.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match=r"coordinator\.sqlite"):
        async with Coordinator(tmp_path):
            pass


async def test_a_store_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    async with Coordinator(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "coordinator.sqlite") as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(StorageError, match="schema 99"):
        async with Coordinator(tmp_path):
            pass


async def test_when_the_disk_is_full_nothing_is_promised_and_nothing_is_lost(tmp_path: Path) -> None:
    async with (
        Coordinator(tmp_path) as coordinator,
        Requester(coordinator.url, coordinator.requester_token) as requester,
    ):
        kept = await requester.submit(builders.MODEL, ASK, max_tokens=16)
        await coordinator.desk.store.read(lambda connection: connection.execute("PRAGMA max_page_count=1"))
        large = ChatInput(messages=(Message(role="user", content="x" * 100_000),))
        with pytest.raises(Refused) as refused:
            await requester.submit(builders.MODEL, large, max_tokens=16)
        assert refused.value.code is wire.RefusalCode.BUSY
        await within(coordinator.failed.wait())
        with pytest.raises(Refused):
            await requester.submit(builders.MODEL, ASK, max_tokens=16)
    async with Coordinator(tmp_path) as coordinator:
        assert list(coordinator.desk.book.tasks) == [kept]
        assert coordinator.desk.book.tasks[kept].progress.state is TaskState.QUEUED


class HandClock:
    """Time that passes only by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


async def test_a_lost_node_s_task_goes_to_another(tmp_path: Path) -> None:
    clock = HandClock()
    async with (
        Coordinator(tmp_path, clock=clock) as coordinator,
        Requester(coordinator.url, coordinator.requester_token) as requester,
        ScriptedNode(coordinator.url, coordinator.public_key, seed=1) as lost,
        ScriptedNode(coordinator.url, coordinator.public_key, seed=2, stream=True) as other,
    ):
        for node in (lost, other):
            await node.join(coordinator.enrol_token())
        task_id = await requester.submit(builders.MODEL, ASK, max_tokens=16)
        (offer,) = await lost.pull()
        await lost.start(offer)
        clock.now += 41.0
        coordinator.sweep()
        (again,) = await other.pull()
        assert (again.task.task_id, again.attempt) == (task_id, 2)
        stale = await lost.deliver(lost.actor.success(offer))
        assert stale.status is wire.ReceiptStatus.STALE


async def test_a_session_ends_after_half_an_hour_on_a_stream_too(tmp_path: Path) -> None:
    clock = HandClock()
    async with (
        Coordinator(tmp_path, clock=clock) as coordinator,
        ScriptedNode(coordinator.url, coordinator.public_key, stream=True) as node,
    ):
        await node.join(coordinator.enrol_token())
        clock.now += 1801.0
        refusal = await node.call(wire.Beat(), wire.Refusal)
        assert refusal.code is wire.RefusalCode.SESSION_EXPIRED
        await node.hello()
        await node.call(wire.Beat(), wire.BeatAck)
