"""Hidden states of an unmodified llama-server, started as an embedding engine without pooling."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agent.core.hidden_states import PATH, StatesReader, peaks_of, states_request
from agent.core.proof.toploc import Peaks
from agent.edges.engines.http import EngineHttp, classified
from agent.ports import Replayer


async def states_peaks(
    http: EngineHttp, prefix: Sequence[int], ids: Sequence[int], patience_s: float
) -> tuple[Peaks, ...]:
    """The peaks of the states of each 32 of `ids` behind `prefix`: all in one prefill. Raises EngineError."""
    reader, found = StatesReader(len(prefix), len(ids)), list[Peaks]()
    body = states_request([*prefix, *ids])
    async with http.response("POST", PATH, body, patience_s) as response:
        with classified():
            async with asyncio.timeout(patience_s):
                while received := await response.content.readany():
                    for chunk in reader.feed(received):
                        found.append(await asyncio.to_thread(peaks_of, chunk))
    reader.close()
    return tuple(found)


class WithStates:
    """Implements ports.Replayer: answers of one engine, hidden states of another with the same weights."""

    def __init__(self, answers: Replayer, states: Replayer) -> None:
        self.prompt_ids, self.replay, self.in_one_go = answers.prompt_ids, answers.replay, answers.in_one_go
        self.text, self.ends, self.rows = answers.text, answers.ends, answers.rows
        self.peaks = states.peaks
