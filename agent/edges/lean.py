"""Imports packages without what they merely would like to have: memory that a process would hold all its life."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, MutableMapping
from types import ModuleType
from typing import Any


def import_for_the_daemon() -> None:
    """structlog takes rich for a console renderer that we do not use (6 MiB); frozenlist the C++ library for the list
    of an application's signals (1 MiB); aiohttp reads the system's CAs into two contexts of its own (3 MiB), while
    every edge that speaks TLS brings a context (`edges.link.tls`). Without CAs theirs trust nobody.
    """
    import ssl  # noqa: PLC0415  (the reader does without)

    if {"rich", "structlog", "frozenlist", "aiohttp"} & sys.modules.keys():
        return  # somebody else in this process has them already
    with _instead(sys.modules, "rich", None), _instead(os.environ, "FROZENLIST_NO_EXTENSIONS", "1"):
        ssl.SSLContext.set_default_verify_paths = _reads_no_cas  # type: ignore[assignment, method-assign]
        try:
            import aiohttp  # noqa: F401, PLC0415
            import structlog  # noqa: F401, PLC0415
        finally:
            del ssl.SSLContext.set_default_verify_paths  # the method of the C class is in force again


def import_for_the_reader() -> None:
    """msgspec takes typing_extensions where it is, and Python's own `typing` otherwise, which has all that it needs
    (1.6 MB); NVML's binding a search for libraries that it never calls (1.7 MB, with what runs compilers)."""
    search = ModuleType("ctypes.util")
    search.find_library = _finds_none  # type: ignore[attr-defined]
    with _instead(sys.modules, "typing_extensions", None), _instead(sys.modules, "ctypes.util", search):
        import msgspec  # noqa: F401, PLC0415
        import pynvml  # noqa: F401, PLC0415


def _reads_no_cas(_context: object) -> None:
    """In place of `SSLContext.set_default_verify_paths`."""


def _finds_none(_name: str) -> None:
    """In place of `ctypes.util.find_library`."""


@contextlib.contextmanager
def _instead(places: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    before = places.get(name)
    places[name] = value
    try:
        yield
    finally:
        del places[name]
        if before is not None:
            places[name] = before
