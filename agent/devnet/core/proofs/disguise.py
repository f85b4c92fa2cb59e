"""Evidence as validators get it: a claim under the name of a node that is made up for it.

Whose answer it is, is no business of those who check it. And a wrong one (`canaries`) has no node of its own: were the
right ones told under their nodes' names, whoever never heard of a node would know that it is being tested.
"""

from __future__ import annotations

import base64
import hashlib
from typing import NamedTuple

import msgspec

from agent.core.model import Commitment, Signed
from agent.core.payloads import ReceiptBundle, Role
from agent.core.proof.header import Header
from agent.core.proof.receipt import Case as Receipt
from agent.core.proof.receipt import read_case
from agent.core.proof.signed import Sign, Verify, seal, seal_all
from agent.core.wire import encode
from agent.devnet.core.presence import node_id_of
from agent.devnet.core.settling import receipt_id_of


class Keys(NamedTuple):
    """Who signs."""

    public: str
    sign: Sign


class Cast(NamedTuple):
    """Who tells a claim."""

    coordinator: Keys
    node: Keys
    """A fresh pair."""
    chance: bytes
    """32 fresh random bytes."""


def disguised(bundle: ReceiptBundle, verify: Verify, cast: Cast) -> ReceiptBundle:
    """The same claim, told by the made-up node."""
    receipt = read_case(bundle, verify)
    assert isinstance(receipt.header, Header)  # only answers of engines are challenged
    return told_by(cast, receipt, receipt.header, receipt.commitment)


def told_by(cast: Cast, receipt: Receipt, header: Header, committed: Commitment) -> ReceiptBundle:
    """What `receipt` has, signed anew by the made-up node and the coordinator, with a header and root of its own."""
    node, bundle = cast.node, receipt.bundle
    assert bundle.output is not None  # what is no text has failed before anybody is asked
    node_id = node_id_of(node.public)
    named = base64.b64encode(msgspec.structs.replace(header, node_key=node.public).encode()).decode()
    offer = msgspec.structs.replace(receipt.offer, node_id=node_id)
    result = msgspec.structs.replace(
        receipt.result,
        node_id=node_id,
        output_sha256=header.output_sha256,
        output_bytes=len(bundle.output.encode()),
        commitment=msgspec.structs.replace(committed, header=named),
    )
    done = _seal(Role.RESULT, encode(result), node, bundle.result, cast.chance)
    sha256 = hashlib.sha256(done.payload.encode()).hexdigest()
    settled = msgspec.structs.replace(
        receipt.receipt,
        receipt_id=receipt_id_of(node_id, result.idem_key, sha256),
        node_id=node_id,
        result_sha256=sha256,
        output_sha256=header.output_sha256,
        commitment_root=committed.root,
    )
    return msgspec.structs.replace(
        bundle,
        offer=_seal(Role.OFFER, encode(offer), cast.coordinator, bundle.offer, cast.chance),
        result=done,
        receipt=_seal(Role.RECEIPT, encode(settled), cast.coordinator, bundle.receipt, cast.chance),
    )


def _seal(role: Role, payload: bytes, keys: Keys, like: Signed, chance: bytes) -> Signed:
    """Alone, or at the place of `like` in a batch of as many, like everything else that a node does."""
    if like.batch is None:
        return seal(role, payload, keys.public, keys.sign)
    # Of the others nobody sees more than digests on a path, and no chance that was not told makes those again.
    numbers = range(like.batch.count)
    batch = [hashlib.sha256(chance + number.to_bytes(2, "little")).hexdigest().encode() for number in numbers]
    batch[like.batch.index] = payload
    return seal_all(role, batch, keys.public, keys.sign)[like.batch.index]
