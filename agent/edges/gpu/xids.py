"""Reads the table of Xids that comes with the agent."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import tomli

from agent.core.xids import Bucket, Xid


@functools.cache
def xid_table() -> Mapping[int, Xid]:
    """By number."""
    raw = tomli.loads(Path(__file__).with_name("xids.toml").read_text(encoding="utf-8"))
    source = raw.pop("source")
    return {
        int(code): Xid(code=int(code), bucket=Bucket(bucket), text=text, source=source)
        for bucket, entries in raw.items()
        for code, text in entries.items()
    }
