"""The image of every sandbox: empty places to mount on, and the links that make /bin and /lib lead into /usr.

It is made here and imported, never fetched; programs come from the host's own /usr, as in the bubblewrap backend.
"""

from __future__ import annotations

import hashlib
import io
import tarfile

from agent.core.errors import SandboxError
from agent.edges.sandbox.oci.command import Command

_PLACES = {"dev": 0o755, "etc": 0o755, "proc": 0o755, "run": 0o755, "sys": 0o755, "tmp": 0o1777, "usr": 0o755}
_LINKS = ("bin", "lib", "lib64", "sbin")


def archive() -> bytes:
    """A tar archive, the same bytes each time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, mode in _PLACES.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name in _LINKS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.linkname = tarfile.SYMTYPE, 0o777, f"usr/{name}"
            tar.addfile(entry)
    return buffer.getvalue()


def ensure(command: Command) -> str:
    """The image's name, after importing it where it is not there yet. Blocks. Raises SandboxError."""
    content = archive()
    name = f"localhost/gpu-agent-sandbox:{hashlib.sha256(content).hexdigest()[:12]}"
    try:
        command.ask("image", "inspect", "--format", "{{.Id}}", name)
    except SandboxError:
        command.ask("import", "-", name, stdin=content)
    return name
