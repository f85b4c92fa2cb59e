"""Rounds of drand from relays that are down, late or lying: only what the chain signed comes through."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from agent.core.errors import ProofError
from agent.core.proof.drand import CHAINS, DEFAULT, QUICKNET, Chain
from agent.devnet.beacons import MAX_ANSWER_BYTES, DrandRelays
from agent.edges.drand import load_bls

ROUNDS = json.loads((Path(__file__).parents[2] / "golden" / "drand" / "rounds.json").read_text())
RECORDED = {(case["chain"], case["round"]): case for case in ROUNDS}
FIRST, LAST = ROUNDS[0]["round"], ROUNDS[-1]["round"]
NEWEST = max(number for chain, number in RECORDED if chain == QUICKNET.hash)
Twist = Callable[[dict, int], "dict | web.Response"]


def told(case: dict) -> dict:
    """As a relay tells it."""
    kept = {name: case[name] for name in ("round", "signature", "previous_signature") if name in case}
    return {**kept, "randomness": hashlib.sha256(bytes.fromhex(case["signature"])).hexdigest()}


class Relays:
    """Servers that speak drand's HTTP API and serve the recorded rounds; `twist` may spoil an answer."""

    def __init__(self) -> None:
        self.runners: list[web.AppRunner] = []
        self.asked: list[str] = []
        self.newest = FIRST
        """What they all call the latest."""

    async def start(self, twist: Twist = lambda answer, _: answer) -> str:
        times = 0

        async def public(request: web.Request) -> web.Response:
            nonlocal times
            times += 1
            self.asked.append(request.path)
            asked = request.match_info["round"]
            number = self.newest if asked == "latest" else int(asked)
            case = RECORDED.get((request.match_info["chain"], number))
            if case is None:
                return web.json_response({"error": "not yet"}, status=404)
            answer = twist(told(case), times)
            return answer if isinstance(answer, web.Response) else web.json_response(answer)

        app = web.Application()
        app.router.add_get("/{chain}/public/{round}", public)
        runner = web.AppRunner(app)
        await runner.setup()
        self.runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.fixture
async def relays() -> AsyncIterator[Relays]:
    made = Relays()
    yield made
    for runner in made.runners:
        await runner.cleanup()


@pytest.fixture
async def fetcher() -> AsyncIterator[Callable[..., DrandRelays]]:
    bls = load_bls()
    assert bls is not None
    async with aiohttp.ClientSession() as session:
        yield lambda *urls, chain=QUICKNET, **how: DrandRelays(session, bls, chain=chain, relays=urls, **how)


@pytest.mark.parametrize(("chain", "number"), [(QUICKNET, FIRST), (DEFAULT, LAST)])
async def test_a_genuine_round_comes_through(relays: Relays, fetcher, chain: Chain, number: int) -> None:
    beacon = await fetcher(await relays.start(), chain=chain).fetch(number)
    assert beacon.round == number
    assert beacon.value == told(RECORDED[chain.hash, number])["randomness"]
    assert relays.asked == [f"/{chain.hash}/public/{number}"]


OTHER = told(ROUNDS[1])
LIES: dict[str, Twist] = {
    "another round": lambda answer, _: OTHER,
    "another round's signature": lambda answer, _: {**OTHER, "round": answer["round"]},
    "randomness of its own": lambda answer, _: {**answer, "randomness": "ab" * 32},
    "no signature": lambda answer, _: {**answer, "signature": ""},
    "half an answer": lambda answer, _: {"round": answer["round"]},
    "no JSON": lambda answer, _: web.Response(text="<html>"),
    "no UTF-8": lambda answer, _: web.Response(body=b'{"round": "\xff"}'),
    "a flood": lambda answer, _: web.Response(body=b" " * (MAX_ANSWER_BYTES + 1)),
    "a redirect": lambda answer, _: web.Response(status=302, headers={"Location": "/elsewhere"}),
    "an error": lambda answer, _: web.Response(status=500),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lying_relay_is_passed_over_and_its_lie_told(relays: Relays, fetcher, lie: str) -> None:
    liar, honest = await relays.start(LIES[lie]), await relays.start()
    assert (await fetcher(liar, honest).fetch(FIRST)).round == FIRST
    with pytest.raises(ProofError, match=f"no relay gave round {FIRST} of quicknet: {liar}: .+") as caught:
        await fetcher(liar).fetch(FIRST)
    assert caught.value.check == "beacon"


async def test_the_latest_round_is_the_newest_that_any_relay_can_prove(relays: Relays, fetcher) -> None:
    behind, liar = await relays.start(), await relays.start(lambda answer, _: {**answer, "round": 10**9})
    ahead = await relays.start(lambda answer, _: told(RECORDED[QUICKNET.hash, NEWEST]))
    assert (await fetcher(behind, liar, ahead).latest()).round == NEWEST
    assert (await fetcher(behind, liar).latest()).round == FIRST
    with pytest.raises(ProofError, match=rf"no relay gave the latest round of quicknet: {liar}: .+did not sign"):
        await fetcher(liar).latest()


@pytest.mark.parametrize("number", [1 << 64, -1])
async def test_a_round_that_no_chain_can_have_is_a_lie_like_any_other(relays: Relays, fetcher, number: int) -> None:
    liar = await relays.start(lambda answer, _: {**answer, "round": number})
    assert (await fetcher(liar, await relays.start()).latest()).round == FIRST


async def test_a_relay_that_is_down_is_passed_over(relays: Relays, fetcher) -> None:
    gone = await relays.start()
    await relays.runners.pop().cleanup()
    assert (await fetcher(gone, await relays.start()).fetch(FIRST)).round == FIRST


async def test_a_round_is_waited_for_until_a_relay_has_it(relays: Relays, fetcher) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    late = await relays.start(lambda answer, times: answer if times > 6 else web.Response(status=404))
    assert (await fetcher(late, sleep=sleep).wait_for(FIRST)).round == FIRST
    assert waits == [3.0, 6.0, 12.0, 24.0, 30.0, 30.0]


def test_the_recorded_rounds_are_of_chains_that_are_known() -> None:
    assert {chain for chain, _ in RECORDED} == set(CHAINS)
