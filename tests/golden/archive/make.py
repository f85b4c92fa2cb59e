"""Makes the golden archive and bundle digest from docs/exec.md alone: a second implementation, not the agent's code.

    python tests/golden/archive/make.py

A change of any committed vector is a new version of the format.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

HERE = Path(__file__).parent
FILES = [
    # path, content, executable, empty directory
    (b"void", b"", False, True),
    (b"bin/run", b"#!/bin/sh\nexec true\n", True, False),
    (b"empty", b"", False, False),
    (b"n" * 100, b"a path of exactly 100 bytes", False, False),
    (b"d" * 99 + b"/x", b"and of 101", False, False),
    (b"d" * 120 + b"/" + b"e" * 200 + b"/\xff\n", b"x" * 512, False, False),
    (b"z" * 100 + b"-a-directory-with-a-long-name", b"", False, True),
]


def header(path: bytes, size: int, mode: bytes, kind: bytes) -> bytes:
    raw = bytearray(512)
    raw[0 : len(path)] = path
    raw[100:107] = mode
    raw[108:115] = raw[116:123] = b"0000000"
    raw[124:135] = b"%011o" % size
    raw[136:147] = b"00000000000"
    raw[148:156] = b"        "
    raw[156:157] = kind
    raw[257:265] = b"ustar\x0000"
    raw[329:336] = raw[337:344] = b"0000000"
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def archive() -> bytes:
    made = b""
    for path, content, executable, directory in sorted(FILES):
        name = path + b"/" * directory
        if len(name) > 100:
            made += header(b"././@LongLink", len(name) + 1, b"0000644", b"L") + padded(name + b"\0")
        mode = b"0000755" if executable or directory else b"0000644"
        made += header(name[:100], len(content), mode, b"5" if directory else b"0") + padded(content)
    return made + bytes(1024)


def signed_by_publisher(sha256: str, size: int) -> str:
    parts = (bytes.fromhex(sha256), struct.pack("<Q", size))
    return hashlib.sha256(
        b"ga/v1/bundle\0" + b"".join(struct.pack("<I", len(part)) + part for part in parts)
    ).hexdigest()


def vectors() -> dict:
    raw = archive()
    sha256 = hashlib.sha256(raw).hexdigest()
    return {
        "files": [
            {"path": path.hex(), "content": content.hex(), "executable": executable, "directory": directory}
            for path, content, executable, directory in FILES
        ],
        "bytes": len(raw),
        "sha256": sha256,
        "signed_digest": signed_by_publisher(sha256, len(raw)),
    }


if __name__ == "__main__":
    (HERE / "archive.json").write_text(json.dumps(vectors(), indent=1) + "\n")
