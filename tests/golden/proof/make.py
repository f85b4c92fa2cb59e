"""Makes the golden vectors from docs/proof.md alone: a second, plain implementation that imports nothing of the agent.

    python tests/golden/proof/make.py

A change of any committed vector is a new version of the format.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HERE = Path(__file__).parent
# RFC 8032, section 7.1, TEST 2.
KEY = Ed25519PrivateKey.from_private_bytes(
    bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
)
PUBLIC = KEY.public_key().public_bytes_raw().hex()

HEADER = {
    "version": 1,
    "task_id": "task-ü",
    "attempt": 2,
    "fence": 2**40 + 1,
    "node_key": PUBLIC,
    "nonce": "5a" * 32,
    "deadline_ms": 600_000,
    "task_kind": "chat",
    "model_digest": "ab" * 32,
    "adapter_digest": "",
    "engine": "llama-server b1",
    "engine_digest": "33" * 32,
    "determinism": "U",
    "prompt_sha256": "22" * 32,
    "request_sha256": "11" * 32,
    "samplers": ["top_k", "top_p", "min_p", "temperature"],
    "min_keep": 2,
    "n_probs": 3,
    "temperature_micros": 800_000,
    "top_k": -1,
    "top_p_micros": 950_000,
    "min_p_micros": 0,
    "seed": 0xFFFFFFFE,
    "max_tokens": 64,
    "stop": ["\n\n", ""],
    "finish": "length",
    "prompt_tokens": 9,
    "completion_tokens": 40,
    "proof_kind": "tokens_f32",
    "output_sha256": "44" * 32,
}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<I", len(raw)) + raw


def texts(values: list[str]) -> bytes:
    return struct.pack("<I", len(values)) + b"".join(map(text, values))


def maybe(digest: str) -> bytes:
    return b"\x01" + bytes.fromhex(digest) if digest else b"\x00"


def header_bytes(h: dict) -> bytes:
    return b"".join(
        [
            struct.pack("<H", h["version"]),
            text(h["task_id"]),
            struct.pack("<QQ", h["attempt"], h["fence"]),
            bytes.fromhex(h["node_key"]) + bytes.fromhex(h["nonce"]),
            struct.pack("<Q", h["deadline_ms"]),
            bytes([{"chat": 1, "completion": 2, "embedding": 3}[h["task_kind"]]]),
            bytes.fromhex(h["model_digest"]) + maybe(h["adapter_digest"]),
            text(h["engine"]) + maybe(h["engine_digest"]) + text(h["determinism"]),
            maybe(h["prompt_sha256"]) + bytes.fromhex(h["request_sha256"]),
            texts(h["samplers"]),
            struct.pack("<QQ", h["min_keep"], h["n_probs"]),
            struct.pack("<qqqq", h["temperature_micros"], h["top_k"], h["top_p_micros"], h["min_p_micros"]),
            struct.pack("<QQ", h["seed"], h["max_tokens"]),
            texts(h["stop"]),
            bytes([{"stop": 0, "length": 1}[h["finish"]]]),
            struct.pack("<QQ", h["prompt_tokens"], h["completion_tokens"]),
            bytes([{"tokens_f32": 1, "text": 2, "rows": 3}[h["proof_kind"]]]),
            bytes.fromhex(h["output_sha256"]),
        ]
    )


def tagged(tag: str, raw: bytes) -> bytes:
    return hashlib.sha256(tag.encode() + b"\x00" + raw).digest()


def tree(hashes: list[bytes]) -> bytes:
    if not hashes:
        return tagged("pos/v1/node", b"")
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return tagged("pos/v1/node", tree(hashes[:split]) + tree(hashes[split:]))


def root(hashes: list[bytes]) -> bytes:
    return tagged("pos/v1/root", struct.pack("<Q", len(hashes)) + tree(hashes))


def leaves(bodies: list[tuple[int, bytes]]) -> list[bytes]:
    made, previous = [], bytes(32)
    for index, (kind, body) in enumerate(bodies):
        made.append(bytes([kind]) + struct.pack("<I", index) + previous + body)
        previous = tagged("pos/v1/leaf", made[-1])
    return made


def token_body(tokens: list[dict]) -> bytes:
    body = struct.pack("<H", len(tokens)) + b"".join(struct.pack("<I", token["id"]) for token in tokens)
    for token in tokens:
        body += struct.pack("<H", len(token["top_ids"]))
        body += b"".join(struct.pack("<I", number) for number in token["top_ids"])
        body += b"".join(struct.pack("<f", number) for number in token["top_logprobs"])
    return body


def text_body(pieces: list[str]) -> bytes:
    return struct.pack("<H", len(pieces)) + b"".join(map(text, pieces))


def row_body(row: list[float]) -> bytes:
    return struct.pack("<I", len(row)) + b"".join(struct.pack("<f", number) for number in row)


def end_body(entries: int, logprob: float | None, imprints: tuple[bytes, ...] = ()) -> bytes:
    body = struct.pack("<Q", entries) + (b"\x00" if logprob is None else b"\x01" + struct.pack("<f", logprob))
    return body + (struct.pack("<I", len(imprints)) + b"".join(imprints) if imprints else b"")


def transcripts() -> list[dict]:
    tokens = [
        {
            "id": n,
            "text": f"t{n}",
            "top_ids": [n, n + 1, 2**32 - 1][: n % 4],
            "top_logprobs": [-0.125, -2.5, -30.1][: n % 4],
        }
        for n in range(35)
    ]
    pieces = [f"å{n}" for n in range(33)]
    rows = [[0.5, -1.25, 0.1], []]
    imprints = (bytes([0xFF, 0xD9, *range(256)]), bytes([0xFF, 0xD8, *reversed(range(256))]))
    cases = [
        ("nothing", {}, [(0, end_body(0, None))]),
        (
            "tokens",
            {"tokens": tokens, "end_logprob": -0.25},
            [(1, token_body(tokens[:32])), (1, token_body(tokens[32:])), (0, end_body(35, -0.25))],
        ),
        (
            "text",
            {"texts": pieces},
            [(2, text_body(pieces[:32])), (2, text_body(pieces[32:])), (0, end_body(33, None))],
        ),
        (
            "tokens then text",
            {"tokens": tokens[:2], "texts": pieces[:1]},
            [(1, token_body(tokens[:2])), (2, text_body(pieces[:1])), (0, end_body(3, None))],
        ),
        (
            "imprints",
            {"tokens": tokens, "texts": pieces[:1], "imprints": [one.hex() for one in imprints]},
            [
                (1, token_body(tokens[:32])),
                (1, token_body(tokens[32:])),
                (2, text_body(pieces[:1])),
                (0, end_body(36, None, imprints)),
            ],
        ),
        ("rows", {"rows": rows}, [(3, row_body(rows[0])), (3, row_body(rows[1])), (0, end_body(2, None))]),
    ]
    kinds = {"nothing": "tokens_f32", "tokens": "tokens_f32", "rows": "rows"}
    made = []
    for name, inputs, bodies in cases:
        raw = leaves(bodies)
        hashes = [tagged("pos/v1/leaf", leaf) for leaf in raw]
        made.append(
            {
                "name": name,
                **inputs,
                "leaves": [leaf.hex() for leaf in raw],
                "hashes": [value.hex() for value in hashes],
                "root": root(hashes).hex(),
                "proof_kind": kinds.get(name, "text"),
            }
        )
    return made


def file_body(path: bytes, mode: int, size: int, sha256: str) -> bytes:
    return struct.pack("<I", len(path)) + path + struct.pack("<BQ", mode, size) + bytes.fromhex(sha256)


def pairs(values: list[list[str]], write) -> bytes:
    return struct.pack("<I", len(values)) + b"".join(text(name) + write(value) for name, value in values)


PROGRAM = {
    "version": 2,
    "task_id": "task-ü",
    "attempt": 2,
    "fence": 2**40 + 1,
    "node_key": PUBLIC,
    "nonce": "5a" * 32,
    "deadline_ms": 600_000,
    "task_kind": "exec",
    "runtime": "ab" * 32,
    "bundle": "55" * 32,
    "publisher": "66" * 32,
    "argv": ["/bundle/render", "", "--frame=7"],
    "env": [["GRÜN", "ä"], ["SCENE", ""]],
    "inputs": [["scene.json", "77" * 32]],
    "outputs": ["**/*.png", "log"],
    "cwd": "/out",
    "merge_stderr": True,
    "limits": [2**29, 1000, 64, 600, 2**26, 2**24, 2**20],
    "seed": 7,
    "engine": "bubblewrap 0.8.0",
    "engine_digest": "",
    "ended": "wall_time",
    "code": 9,
    "artifact": "99" * 32,
    "proof_kind": "files",
    "output_sha256": "44" * 32,
}
FILES = [
    {"path": b"out/\xff\n".hex(), "mode": 1, "size": 2**33 - 1, "sha256": "11" * 32},
    {"path": b"out/void".hex(), "mode": 2, "size": 0, "sha256": hashlib.sha256().hexdigest()},
    {"path": b"stdout".hex(), "mode": 0, "size": 5, "sha256": hashlib.sha256(b"hello").hexdigest()},
]


def program_header_bytes(h: dict) -> bytes:
    endings = ["exited", "signalled", "out_of_memory", "wall_time", "disk_full", "output_too_large"]
    return b"".join(
        [
            struct.pack("<H", h["version"]),
            text(h["task_id"]),
            struct.pack("<QQ", h["attempt"], h["fence"]),
            bytes.fromhex(h["node_key"]) + bytes.fromhex(h["nonce"]),
            struct.pack("<Q", h["deadline_ms"]),
            bytes([4]),
            bytes.fromhex(h["runtime"]) + bytes.fromhex(h["bundle"]) + bytes.fromhex(h["publisher"]),
            texts(h["argv"]) + pairs(h["env"], text) + pairs(h["inputs"], bytes.fromhex),
            texts(h["outputs"]) + text(h["cwd"]) + bytes([h["merge_stderr"]]),
            struct.pack(f"<I{len(h['limits'])}Q", len(h["limits"]), *h["limits"]),
            struct.pack("<Q", h["seed"]),
            text(h["engine"]) + maybe(h["engine_digest"]),
            bytes([endings.index(h["ended"])]) + struct.pack("<Q", h["code"]),
            bytes.fromhex(h["artifact"]) + bytes([4]) + bytes.fromhex(h["output_sha256"]),
        ]
    )


def program() -> dict:
    bodies = [(4, file_body(bytes.fromhex(f["path"]), f["mode"], f["size"], f["sha256"])) for f in FILES]
    raw = leaves([*bodies, (0, end_body(len(FILES), None))])
    return {
        "header": PROGRAM,
        "header_bytes": program_header_bytes(PROGRAM).hex(),
        "files": FILES,
        "leaves": [leaf.hex() for leaf in raw],
        "root": root([tagged("pos/v1/leaf", leaf) for leaf in raw]).hex(),
    }


VERDICT = {
    "version": 3,
    "task_id": "v-ü",
    "attempt": 1,
    "fence": 2**40 + 1,
    "node_key": PUBLIC,
    "nonce": "5a" * 32,
    "deadline_ms": 600_000,
    "task_kind": "verify",
    "model_digest": "ab" * 32,
    "evidence": "77" * 32,
    "leaves": [0, 7, 2**33],
    "engine": "llama-server b1",
    "engine_digest": "33" * 32,
    "determinism": "X-0123456789abcdef",
    "output_sha256": "44" * 32,
}
SAID = {
    "evidence": "77" * 32,
    "verdict": "suspect",
    "certain": False,
    "reasons": ["chunk 7: log-probabilities are 0.41 off on average, 0.30 at most — ü"],
    "thresholds": "1",
    "determinism": "X-0123456789abcdef",
    "exact": False,
    "recomputed": [{"leaf": 0, "sha256": "11" * 32}, {"leaf": 7, "sha256": "22" * 32}],
    "copied": 0,
    "salt": "5b" * 32,
    "metrics": "{}",
}


def verdict_header_bytes(h: dict) -> bytes:
    return b"".join(
        [
            struct.pack("<H", h["version"]),
            text(h["task_id"]),
            struct.pack("<QQ", h["attempt"], h["fence"]),
            bytes.fromhex(h["node_key"]) + bytes.fromhex(h["nonce"]),
            struct.pack("<Q", h["deadline_ms"]),
            bytes([5]),
            bytes.fromhex(h["model_digest"]) + bytes.fromhex(h["evidence"]),
            struct.pack(f"<I{len(h['leaves'])}Q", len(h["leaves"]), *h["leaves"]),
            text(h["engine"]) + maybe(h["engine_digest"]) + text(h["determinism"]),
            bytes.fromhex(h["output_sha256"]),
        ]
    )


def verdict() -> dict:
    said = json.dumps(SAID, separators=(",", ":"), ensure_ascii=False)
    size = -(-len(said) // 32)
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    raw = leaves([(2, text_body(pieces)), (0, end_body(len(pieces), None))])
    return {
        "header": VERDICT,
        "header_bytes": verdict_header_bytes(VERDICT).hex(),
        "said": SAID,
        "leaves": [leaf.hex() for leaf in raw],
        "root": root([tagged("pos/v1/leaf", leaf) for leaf in raw]).hex(),
    }


def bare_bytes(raw: bytes) -> bytes:
    """Hash and kind; of tokens how many and which, of text how many."""
    kept = 0
    if raw[0] in (1, 2):
        kept = 2 + (4 * struct.unpack_from("<H", raw, 37)[0] if raw[0] == 1 else 0)
    return b"\x00" + tagged("pos/v1/leaf", raw) + raw[:1] + raw[37 : 37 + kept]


def openings(made: list[dict]) -> list[dict]:
    """Of every transcript all leaves, and the first alone."""
    cases = []
    for case, chosen in [(case, chosen) for case in made for chosen in ([], [0])]:
        raw = [bytes.fromhex(leaf) for leaf in case["leaves"]]
        last = len(raw) - 1
        shown = [at for at in range(len(raw)) if not chosen or at in chosen or at == last]
        body = [b"\x01" + struct.pack("<I", len(x)) + x if at in shown else bare_bytes(x) for at, x in enumerate(raw)]
        cases.append(
            {
                "name": f"{case['name']}, {'first' if chosen else 'all'}",
                "leaves": case["leaves"],
                "root": case["root"],
                "chosen": chosen,
                "opened": [at for at in shown if at != last],
                "opening": (b"\x01" + struct.pack("<I", len(raw)) + b"".join(body)).hex(),
            }
        )
    return cases


def words(beacon: bytes, salt: str, info: bytes):
    key = hmac.new(bytes.fromhex(salt), beacon, hashlib.sha256).digest()
    block, number = b"", 1
    while True:
        block = hmac.new(key, block + info + struct.pack("<I", number), hashlib.sha256).digest()
        yield from struct.unpack("<4Q", block)
        number += 1


def drawn(beacon: bytes, salt: str, task: str, leaves: int, wanted: int, level: int) -> list[int]:
    rest, chosen = list(range(1, leaves - 2)), {0, leaves - 2} if leaves > 1 else set()
    source = words(beacon, salt, b"pos/v1/leaves\0" + bytes([level]) + task.encode())
    while rest and len(chosen) < wanted * 2**level:
        word = next(source)
        if word < 2**64 - 2**64 % len(rest):
            chosen.add(rest.pop(word % len(rest)))
    return sorted(chosen)


def draws() -> list[dict]:
    cases = []
    for n, (leaves, wanted, level) in enumerate(
        [(1, 6, 0), (2, 6, 0), (3, 1, 0), (34, 6, 0), (34, 6, 1), (900, 12, 2)]
    ):
        beacon, salt = hashlib.sha256(bytes([n])).digest(), hashlib.sha256(bytes([n, n])).hexdigest()
        word = next(words(beacon, salt, f"pos/v1/draw\0täsk-{n}".encode()))
        cases.append(
            {
                "beacon": beacon.hex(),
                "root": salt,
                "task": f"täsk-{n}",
                "drawn_from_rate_micros": word * 10**6 // 2**64 + 1,
                "leaves": leaves,
                "wanted": wanted,
                "level": level,
                "drawn": drawn(beacon, salt, f"täsk-{n}", leaves, wanted, level),
            }
        )
    return cases


def commitment(made: dict) -> dict:
    raw = header_bytes(HEADER)
    return {
        "node_key": PUBLIC,
        "header": HEADER,
        "header_bytes": raw.hex(),
        "root": made["root"],
        "leaves": len(made["leaves"]),
    }


def merkle() -> list[dict]:
    made = []
    for count in (0, 1, 2, 3, 4, 5, 6, 7, 8, 13):
        raw = [bytes([n]) for n in range(count)]
        made.append(
            {"leaves": [leaf.hex() for leaf in raw], "root": root([tagged("pos/v1/leaf", x) for x in raw]).hex()}
        )
    return made


if __name__ == "__main__":
    for name, value in {
        "transcripts": transcripts(),
        "merkle": merkle(),
        "commitment": commitment(transcripts()[1]),
        "program": program(),
        "verdict": verdict(),
        "openings": openings(transcripts()),
        "draws": draws(),
    }.items():
        (HERE / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
