"""All that proves one result, as one value: for requesters, and as evidence for validators."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.core.wire import ReceiptBundle
from agent.devnet.core.proofs.records import Case
from agent.devnet.core.records import Settlement
from agent.devnet.desk import Desk


def bundle_of(desk: Desk, settlement: Settlement, case: Case) -> ReceiptBundle:
    """A receipt with its output (None where a node delivered bytes that are no text), what was opened, and what drew
    it. Reads files. Raises OSError."""
    output = settlement.output
    if output is None and settlement.blob:
        output = _text(desk.blobs.path_of(settlement.blob))
    return ReceiptBundle(
        coordinator_key=desk.book.key,
        offer=settlement.offer,
        result=settlement.result,
        receipt=settlement.receipt,
        output=output,
        opening=desk.exhibits.path_of(case.opening.sha256).read_bytes() if case.opening else None,
        beacon=case.beacon,
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def proof_of(desk: Desk, settlement: Settlement, case: Case) -> bytes:
    """`GET /v1/tasks/{id}/proof`: the same with what came of it, as JSON. As `bundle_of`."""
    judged = desk.book.docket.judged.get(case.node_id, [])
    told = judged[case.serial - 1] if case.serial else None
    return msgspec.json.encode(msgspec.structs.replace(bundle_of(desk, settlement, case), judgement=told))
