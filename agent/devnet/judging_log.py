"""What the coordinator's log says of judgements: every one, with its reason, once it is on the disk."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from agent.core.payloads import Judgement, JudgementBody
from agent.devnet.core.effects import SaveJudged, Write

logger = logging.getLogger(__name__)
_BODY = msgspec.json.Decoder(JudgementBody)
_WELL = frozenset({Judgement.PASSED, Judgement.VOID})


def log_judgements(writes: Iterable[Write]) -> None:
    """Of one decision. What is held against a node is a warning."""
    for write in writes:
        if isinstance(write, SaveJudged):
            _log(_BODY.decode(write.judged.signed.payload))


def _log(body: JudgementBody) -> None:
    logger.log(
        logging.INFO if body.judgement in _WELL else logging.WARNING,
        "proof.judged node=%s task=%s %s=%s slashed_micros=%d stake_micros=%d%s %s",
        body.node_id,
        body.task_id,
        body.subject.value,
        body.judgement.value,
        body.slashed_micros,
        body.stake_micros,
        " barred" if body.barred else "",
        body.detail,
    )
