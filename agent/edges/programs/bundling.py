"""Makes a bundle of a directory: the publisher's side."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

from agent.core.errors import AgentError
from agent.core.model import Bundle
from agent.core.program import sign_bundle
from agent.core.wire import MAX_BLOB_BYTES
from agent.edges.programs.collect import Caps, ChangedError, TooMuchError, pack, survey
from agent.edges.signing import KeyPair

_ALL = (b"**",)


class BundleError(AgentError):
    """The directory cannot become a bundle."""


def bundle(directory: Path, into: io.BufferedRandom, keys: KeyPair) -> Bundle:
    """Write the archive of all that `directory` holds, and sign it. Raises BundleError, OSError."""
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = survey(root, _ALL, Caps(MAX_BLOB_BYTES))
        if found.left_out:
            raise BundleError(
                f"a bundle holds files and directories alone; {found.left_out[0]}"
                + (f" and {len(found.left_out) - 1} more" if found.left_out[1:] else ""),
                remedy="`cp -rL` makes a copy with what links name in their place",
            )
        if not found.entries:
            raise BundleError(f"{directory} is empty")
        for _ in pack(into, root, found.entries, {}, prefix=b""):
            pass
    except (TooMuchError, ChangedError) as error:
        raise BundleError(f"{directory} cannot become a bundle: {error}") from error
    finally:
        os.close(root)
    size = into.tell()
    if size > MAX_BLOB_BYTES:
        raise BundleError(f"the bundle has {size} bytes, at most {MAX_BLOB_BYTES}")
    into.flush()
    into.seek(0)
    sha256 = hashlib.file_digest(into, "sha256").hexdigest()
    return sign_bundle(sha256, size, keys.public_key, keys.sign)
