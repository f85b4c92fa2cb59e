"""A second reader of header, leaves and transcript, written from docs/proof.md alone. It imports nothing of the agent.

Plain on purpose: one cursor, dictionaries, no tables shared with the code that it judges.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Any

DIGEST = 32


class RefusedError(Exception):
    """The bytes are not what docs/proof.md allows."""


class Cursor:
    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def take(self, count: int) -> bytes:
        taken = self.raw[self.at : self.at + count]
        if len(taken) != count:
            raise RefusedError("a length beyond the end")
        self.at += count
        return taken

    def number(self, letter: str) -> Any:
        [value] = struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))
        return value

    def f32(self) -> float:
        value: float = self.number("f")
        if math.isnan(value):
            raise RefusedError("NaN")
        return value

    def digest(self) -> str:
        return self.take(DIGEST).hex()

    def flag(self) -> bool:
        flag = self.number("B")
        if flag > 1:
            raise RefusedError("no flag")
        return flag == 1

    def optional_digest(self) -> str:
        return self.digest() if self.flag() else ""

    def text(self) -> str:
        length = self.number("I")
        if length > 65_536:
            raise RefusedError("text too long")
        try:
            return self.take(length).decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise RefusedError("not UTF-8") from error

    def texts(self, most: int) -> list[str]:
        count = self.number("I")
        if count > most:
            raise RefusedError("too many items")
        return [self.text() for _ in range(count)]

    def member(self, names: dict[int, str]) -> str:
        number = self.number("B")
        if number not in names:
            raise RefusedError("outside a closed set")
        return names[number]

    def end(self) -> None:
        if self.at != len(self.raw):
            raise RefusedError("bytes after the end")


def tagged(tag: str, *parts: bytes) -> bytes:
    return hashlib.sha256(tag.encode("ascii") + b"\0" + b"".join(parts)).digest()


def read_header(raw: bytes) -> dict[str, Any]:
    if len(raw) > 262_144:
        raise RefusedError("header too long")
    c, h = Cursor(raw), {}
    h["version"] = c.number("H")
    if h["version"] != 1:
        raise RefusedError("another version")
    h["task_id"] = c.text()
    h["attempt"], h["fence"] = c.number("Q"), c.number("Q")
    h["node_key"], h["nonce"] = c.digest(), c.digest()
    h["deadline_ms"] = c.number("Q")
    h["task_kind"] = c.member({1: "chat", 2: "completion", 3: "embedding"})
    h["model_digest"], h["adapter_digest"] = c.digest(), c.optional_digest()
    h["engine"], h["engine_digest"] = c.text(), c.optional_digest()
    h["determinism"] = c.text()
    h["prompt_sha256"], h["request_sha256"] = c.optional_digest(), c.digest()
    h["samplers"] = c.texts(32)
    h["min_keep"], h["n_probs"] = c.number("Q"), c.number("Q")
    for name in ("temperature_micros", "top_k", "top_p_micros", "min_p_micros"):
        h[name] = c.number("q")
    h["seed"], h["max_tokens"] = c.number("Q"), c.number("Q")
    h["stop"] = c.texts(64)
    h["finish"] = c.member({0: "stop", 1: "length"})
    h["prompt_tokens"], h["completion_tokens"] = c.number("Q"), c.number("Q")
    h["proof_kind"] = c.member({1: "tokens_f32", 2: "text", 3: "rows"})
    h["output_sha256"] = c.digest()
    c.end()
    return h


def read_program_header(raw: bytes) -> dict[str, Any]:
    if len(raw) > 262_144:
        raise RefusedError("header too long")
    c, h = Cursor(raw), {}
    h["version"] = c.number("H")
    if h["version"] != 2:
        raise RefusedError("another version")
    h["task_id"] = c.text()
    h["attempt"], h["fence"] = c.number("Q"), c.number("Q")
    h["node_key"], h["nonce"] = c.digest(), c.digest()
    h["deadline_ms"] = c.number("Q")
    h["task_kind"] = c.member({4: "exec"})
    h["runtime"], h["bundle"], h["publisher"] = c.digest(), c.digest(), c.digest()
    h["argv"] = c.texts(32_768)
    h["env"] = named(c, 32_768, c.text)
    h["inputs"] = named(c, 1024, c.digest)
    h["outputs"] = c.texts(1024)
    h["cwd"] = c.text()
    h["merge_stderr"] = c.flag()
    count = c.number("I")
    if count > 1024:
        raise RefusedError("too many items")
    h["limits"] = [c.number("Q") for _ in range(count)]
    h["seed"] = c.number("Q")
    h["engine"], h["engine_digest"] = c.text(), c.optional_digest()
    endings = ("exited", "signalled", "out_of_memory", "wall_time", "disk_full", "output_too_large")
    h["ended"] = c.member(dict(enumerate(endings)))
    h["code"] = c.number("Q")
    h["artifact"] = c.digest()
    h["proof_kind"] = c.member({4: "files"})
    h["output_sha256"] = c.digest()
    c.end()
    return h


def read_verdict_header(raw: bytes) -> dict[str, Any]:
    if len(raw) > 262_144:
        raise RefusedError("header too long")
    c, h = Cursor(raw), {}
    h["version"] = c.number("H")
    if h["version"] != 3:
        raise RefusedError("another version")
    h["task_id"] = c.text()
    h["attempt"], h["fence"] = c.number("Q"), c.number("Q")
    h["node_key"], h["nonce"] = c.digest(), c.digest()
    h["deadline_ms"] = c.number("Q")
    h["task_kind"] = c.member({5: "verify"})
    h["model_digest"], h["evidence"] = c.digest(), c.digest()
    count = c.number("I")
    if count > 16_384:
        raise RefusedError("too many items")
    h["leaves"] = [c.number("Q") for _ in range(count)]
    h["engine"], h["engine_digest"] = c.text(), c.optional_digest()
    h["determinism"], h["output_sha256"] = c.text(), c.digest()
    c.end()
    return h


def named(c: Cursor, most: int, value: Any) -> list[list[str]]:
    count = c.number("I")
    if count > most:
        raise RefusedError("too many items")
    pairs = [[c.text(), value()] for _ in range(count)]
    names = [name for name, _ in pairs]
    if names != sorted(set(names)):
        raise RefusedError("names out of order or repeated")
    return pairs


def read_leaf(raw: bytes) -> dict[str, Any]:
    c = Cursor(raw)
    leaf: dict[str, Any] = {"kind": c.number("B"), "index": c.number("I"), "previous": c.take(DIGEST)}
    match leaf["kind"]:
        case 0:
            leaf["entries"] = c.number("Q")
            leaf["end_logprob"] = c.f32() if c.flag() else None
            leaf["imprints"] = imprints(c)
        case 1:
            leaf["ids"] = [c.number("I") for _ in range(entries(c))]
            leaf["candidates"] = [candidates(c) for _ in leaf["ids"]]
        case 2:
            leaf["texts"] = [c.take(c.number("I")) for _ in range(entries(c))]
        case 3:
            leaf["row"] = [c.f32() for _ in range(c.number("I"))]
        case 4:
            leaf["path"] = c.take(c.number("I"))
            leaf["mode"] = c.number("B")
            if leaf["mode"] > 2:
                raise RefusedError("no such mode")
            leaf["size"], leaf["sha256"] = c.number("Q"), c.digest()
        case _:
            raise RefusedError("no such kind")
    c.end()
    return leaf


def imprints(c: Cursor) -> list[bytes]:
    if c.at == len(c.raw):
        return []
    count = c.number("I")
    if not 1 <= count <= 130_055:
        raise RefusedError("no list of imprints")
    return [c.take(258) for _ in range(count)]


def entries(c: Cursor) -> int:
    count: int = c.number("H")
    if not 1 <= count <= 32:
        raise RefusedError("1 to 32 entries")
    return count


def candidates(c: Cursor) -> list[tuple[int, float]]:
    count = c.number("H")
    ids = [c.number("I") for _ in range(count)]
    return [(number, c.f32()) for number in ids]


def split(raw: bytes) -> list[bytes]:
    c, leaves = Cursor(raw), []
    while c.at < len(raw):
        length = c.number("I")
        if length > 33_554_432:
            raise RefusedError("leaf too long")
        leaves.append(c.take(length))
    return leaves


def root(hashes: list[bytes]) -> str:
    return tagged("pos/v1/root", struct.pack("<Q", len(hashes)), top(hashes)).hex()


def top(hashes: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, from the bottom: neighbours are joined, and an odd one out goes up as it is."""
    level = hashes or [tagged("pos/v1/node")]
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [tagged("pos/v1/node", *pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


def read_transcript(raw: bytes) -> tuple[list[dict[str, Any]], str]:
    """Leaves and root, once chain, order and shape are right."""
    raws = split(raw)
    hashes = [tagged("pos/v1/leaf", one) for one in raws]
    leaves = [read_leaf(one) for one in raws]
    for at, leaf in enumerate(leaves):
        if leaf["previous"] != (hashes[at - 1] if at else bytes(DIGEST)):
            raise RefusedError("another chain")
    check_order(leaves)
    return leaves, root(hashes)


def check_order(leaves: list[dict[str, Any]]) -> None:
    for at, leaf in enumerate(leaves):
        last = at == len(leaves) - 1
        if leaf["index"] != at:
            raise RefusedError("out of order")
        if (leaf["kind"] == 0) != last:
            raise RefusedError("one end leaf, the last")
        if size(leaf) < 32 and leaf["kind"] in (1, 2) and leaves[at + 1]["kind"] == leaf["kind"]:
            raise RefusedError("a leaf closes with its 32nd entry")
    if not leaves or leaves[-1]["entries"] != sum(map(size, leaves)):
        raise RefusedError("the end leaf counts otherwise")
    if leaves[-1]["imprints"]:
        kinds = [leaf["kind"] for leaf in leaves]
        if kinds[0] != 1 or len(leaves[-1]["imprints"]) != next(at for at, kind in enumerate(kinds) if kind != 1):
            raise RefusedError("one imprint for each leaf of tokens before any other")


def size(leaf: dict[str, Any]) -> int:
    return len(leaf.get("ids", leaf.get("texts", []))) + (leaf["kind"] in (3, 4))


def proof_kind(leaves: list[dict[str, Any]]) -> str:
    kinds = {leaf["kind"] for leaf in leaves}
    return "text" if 2 in kinds else "files" if 4 in kinds else "rows" if 3 in kinds else "tokens_f32"


def read_opening(raw: bytes, committed_root: str, committed_leaves: int) -> tuple[list[dict[str, Any]], list[int]]:
    """All leaves, and the indices of those with output that are shown in full."""
    if len(raw) > 67_108_864:
        raise RefusedError("longer than a blob")
    c, leaves, hashes = Cursor(raw), [], []
    if c.number("B") != 1:
        raise RefusedError("another version")
    count = c.number("I")
    if count != committed_leaves:
        raise RefusedError("another number of leaves")
    for at in range(count):
        leaves.append(opened_leaf(c, hashes[-1] if at else bytes(DIGEST)) if c.flag() else bare_leaf(c, at))
        hashes.append(leaves[-1]["hash"])
    c.end()
    if root(hashes) != committed_root:
        raise RefusedError("another root")
    check_order(leaves)
    return leaves, [leaf["index"] for leaf in leaves[:-1] if not leaf["bare"]]


def opened_leaf(c: Cursor, previous: bytes) -> dict[str, Any]:
    length = c.number("I")
    if length > 33_554_432:
        raise RefusedError("leaf too long")
    raw = c.take(length)
    leaf = read_leaf(raw)
    if leaf["previous"] != previous:
        raise RefusedError("another chain")
    return {**leaf, "hash": tagged("pos/v1/leaf", raw), "bare": False}


def bare_leaf(c: Cursor, at: int) -> dict[str, Any]:
    leaf: dict[str, Any] = {"index": at, "bare": True, "hash": c.take(DIGEST), "kind": c.number("B")}
    if leaf["kind"] == 1:
        leaf["ids"] = [c.number("I") for _ in range(entries(c))]
    elif leaf["kind"] == 2:
        leaf["texts"] = [b""] * entries(c)
    elif leaf["kind"] not in (3, 4):
        raise RefusedError("no such kind, or the end leaf")
    return leaf
