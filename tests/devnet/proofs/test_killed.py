"""The process of a coordinator is killed while results are challenged: nothing that it said is lost."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from agent.core import wire
from agent.core.model import ChatInput, Message
from agent.core.payloads import Judgement
from agent.devnet.requester import Requester
from tests import builders
from tests.devnet.node import ScriptedNode
from tests.devnet.proofs.challenged import Opener, blob_of
from tests.devnet.test_lifecycle import port_of, started
from tests.patience import PATIENCE_S

ASK = ChatInput(messages=(Message(role="user", content="Name a colour."),))
OPTIONS = ("--challenge-rate", "1", "--epoch", "1", "--validators", "0")


async def test_kill_9_between_receipt_challenge_and_judgement_loses_none_of_them(tmp_path: Path) -> None:
    state, tokens = tmp_path / "state", tmp_path / "token"
    opener = Opener()
    async with started(state, "--token-file", str(tokens), *OPTIONS) as first:
        token = (state / "requester.token").read_text().strip()
        async with Requester(first.url, token) as requester, ScriptedNode(first.url, first.key) as node:
            node.actor = opener
            await node.join(tokens.read_text().strip())
            task_id = await requester.submit(builders.MODEL, ASK, max_tokens=40)
            (offer,) = await node.pull()
            promise = (await node.deliver(opener.answer(offer))).beacon
            assert promise is not None
            assert await first.kill(signal.SIGKILL) == -signal.SIGKILL

            async with started(state, "--port", port_of(first.url), *OPTIONS) as second:
                await node.hello()
                challenge = await challenged(node)
                assert (challenge.key.task_id, challenge.beacon.round) == (task_id, promise.round)
                content = opener.opened(task_id)
                await node.put_blob(blob_of(content).sha256, content)
                opening = wire.Opening(challenge_id=challenge.challenge_id, blob=blob_of(content))
                await node.call(opening, wire.Ack)
                assert await second.kill(signal.SIGKILL) == -signal.SIGKILL

            async with started(state, "--port", port_of(first.url), *OPTIONS):
                await node.hello()
                async with asyncio.timeout(PATIENCE_S):
                    while not (ack := await node.call(wire.Beat(), wire.BeatAck)).judged:
                        pass  # each beat is a round trip
                assert ack.challenges == ()
                proof = await requester.proof(task_id)
                assert proof.judgement == ack.judged[0]
                assert proof.opening == content
                assert (await requester.task(task_id)).proof.judgement is Judgement.PASSED
                await node.call(opening, wire.Ack)  # said again, it changes nothing
                assert len((await node.call(wire.Beat(), wire.BeatAck)).judged) == 1


async def challenged(node: ScriptedNode) -> wire.Challenge:
    async with asyncio.timeout(PATIENCE_S):
        while not (ack := await node.call(wire.Beat(), wire.BeatAck)).challenges:
            pass  # each beat is a round trip
    return ack.challenges[0]
