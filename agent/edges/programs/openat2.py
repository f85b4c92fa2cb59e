"""openat2(2), which Python lacks: opens below a directory and follows nothing on the way."""

from __future__ import annotations

import ctypes
import errno
import os

_NUMBER = 437
"""On every architecture: system calls since Linux 5.1 have one number."""
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 1, 2, 4, 8
_RESOLVE = _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_syscall = ctypes.CDLL(None, use_errno=True).syscall


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """A descriptor of `path` below the directory `root`, on the same file system. Raises OSError; ELOOP for a link."""
    how = _How(flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK * (not flags & os.O_PATH), 0, _RESOLVE)
    while True:
        fd: int = _syscall(
            ctypes.c_long(_NUMBER), ctypes.c_int(root), path, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
        )
        if fd >= 0:
            return fd
        if (number := ctypes.get_errno()) != errno.EINTR:
            raise OSError(number, os.strerror(number), path)


def why_missing() -> str:
    """Why it does not work on this machine; empty when it does."""
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.close(open_beneath(root, b".", os.O_PATH))
    except OSError as error:
        return f"openat2 does not work here ({error.strerror}); it needs Linux 5.6"
    finally:
        os.close(root)
    return ""
