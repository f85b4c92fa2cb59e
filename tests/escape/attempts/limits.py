"""Limits"""

import contextlib
import ctypes
import mmap
import os
import signal
import socket
import threading
import time

from trying import HOST, LIBC, attempt

LIMITS = HOST.get("limits", {})
SEEN_AFTER_S = 1.0
"""Longer than any watcher takes that measures from time to time."""
CHUNK = b"x" * (1 << 20)
WORKERS = 12


def _held(what):
    time.sleep(SEEN_AFTER_S)
    return what


@attempt(alone=True)
def memory():
    """twice the memory that is allowed"""
    size = 2 * LIMITS["memory_bytes"]
    area = mmap.mmap(-1, size)
    for place in range(0, size, 4096):
        area[place] = 1
    return _held(f"{size >> 20} MiB")


@attempt(alone=True)
def memory_of_many():
    """twice the memory that is allowed, over several processes"""
    share = LIMITS["memory_bytes"] // 2
    pids = []
    for _ in range(4):
        if (pid := os.fork()) == 0:
            area = mmap.mmap(-1, share)
            for place in range(0, share, 4096):
                area[place] = 1
            time.sleep(10)
            os._exit(0)
        pids.append(pid)
    time.sleep(2 * SEEN_AFTER_S)
    with contextlib.suppress(ChildProcessError):
        alive = [pid for pid in pids if os.waitpid(pid, os.WNOHANG) == (0, 0)]
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return len(alive) == 4


@attempt(alone=True)
def memory_in_files():
    """twice the memory that is allowed, in memfds that no process maps"""
    left = 2 * LIMITS["memory_bytes"]
    while left > 0:
        fd = os.memfd_create("x")
        left -= _filled(fd, min(left, LIMITS["file_bytes"]))
    return _held("all of it was written")


@attempt(alone=True)
def memory_in_segments():
    """twice the memory that is allowed, in System V segments that no process maps"""
    LIBC.shmat.restype = ctypes.c_void_p
    left, size, made = 2 * LIMITS["memory_bytes"], 8 << 20, []
    try:
        while left > 0:
            number = LIBC.shmget(0, size, 0o600)
            if number < 0:
                raise OSError(ctypes.get_errno(), "shmget")
            made.append(number)
            address = LIBC.shmat(number, None, 0)
            ctypes.memset(address, 1, size)
            LIBC.shmdt(ctypes.c_void_p(address))
            left -= size
        return _held("all of it was written")
    finally:
        for number in made:
            LIBC.shmctl(number, 0, None)


@attempt(alone=True)
def processes():
    """more processes than are allowed"""
    pids = []
    try:
        for _ in range(2 * LIMITS["pids"]):
            pid = os.fork()
            if pid == 0:
                time.sleep(10)
                os._exit(0)
            pids.append(pid)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    return f"{len(pids)} processes"


@attempt(alone=True)
def threads():
    """more threads than processes are allowed"""
    stop = threading.Event()
    started = 0
    try:
        for _ in range(2 * LIMITS["pids"]):
            threading.Thread(target=stop.wait, daemon=True).start()
            started += 1
    except RuntimeError:
        return None
    finally:
        stop.set()
    return f"{started} threads"


@attempt(alone=True)
def open_files():
    """more open files than are allowed, in one process"""
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(2 * LIMITS["open_files"])]
    return f"{len(opened)} files"


@attempt(alone=True)
def large_file():
    """a file larger than is allowed"""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with _scratch("/tmp") as fd:
        return _filled(fd, LIMITS["file_bytes"] + len(CHUNK)) > LIMITS["file_bytes"]


@attempt(alone=True)
def fill_tmp():
    """more in /tmp than is allowed"""
    return _fill("/tmp", 2 * LIMITS["tmp_bytes"])


@attempt(alone=True)
def fill_shared_memory():
    """more in /dev/shm than is allowed"""
    return _fill("/dev/shm", 2 * LIMITS["shm_bytes"])


@attempt(alone=True)
def fill_dev():
    """anything in /dev"""
    return _fill("/dev", 4096)


@attempt(alone=True)
def fill_run():
    """anything in /run"""
    return _fill("/run", 4096)


@attempt(alone=True)
def fill_the_socket_directory():
    """more in the directory of the engine's socket, which lies on the host, than in /tmp is allowed"""
    return _fill(HOST["sock"], 2 * LIMITS["tmp_bytes"])


@attempt(alone=True)
def fill_out():
    """more in /out, which the agent keeps after the end, than is allowed"""
    return _fill(HOST["out"], 2 * LIMITS["out_bytes"])


@attempt(alone=True)
def many_files():
    """ten thousand files, which cost memory even when they are empty"""
    made, place = [], f"/tmp/{HOST['token']}-files"
    os.mkdir(place)
    try:
        for number in range(10_000):
            os.symlink("nowhere", f"{place}/{number}")  # an inode like any other, in one call
            made.append(number)
    finally:
        for number in made:
            os.unlink(f"{place}/{number}")
        os.rmdir(place)
    return f"{len(made)} files"


@attempt(alone=True)
def locked_memory():
    """memory that cannot be swapped, twice what is allowed"""
    size = 2 * LIMITS["memory_bytes"]
    area = mmap.mmap(-1, size)
    if LIBC.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(area))), ctypes.c_size_t(size)):
        raise OSError(ctypes.get_errno(), "mlock")
    return _held(f"{size >> 20} MiB")


@attempt(alone=True)
def socket_buffers():
    """twice the memory that is allowed, in buffers of sockets that nobody reads, over several processes"""
    reader, writer = os.pipe()
    pids = []
    for _ in range(WORKERS):
        if (pid := os.fork()) == 0:
            os.close(reader)
            share, held = 2 * LIMITS["memory_bytes"] // WORKERS, []
            with contextlib.suppress(OSError):
                while share > 0:
                    held += socket.socketpair()
                    share -= _stuffed(held[-1])
            os.write(writer, b"." if share <= 0 else b"x")
            time.sleep(10)
            os._exit(0)
        pids.append(pid)
    os.close(writer)
    done = b""
    while len(done) < WORKERS and (piece := os.read(reader, WORKERS)):
        done += piece
    got = _held("all of it was written") if done == b"." * WORKERS else None
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return got


def _stuffed(stream):
    """How much one socket takes that the other end never reads."""
    stream.setblocking(False)
    written = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            written += stream.send(CHUNK)
    return written


@attempt(alone=True)
def time_that_is_over():
    """run longer than is allowed"""
    signal.alarm(0)
    for number in range(1, 65):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    time.sleep(LIMITS["wall_s"] + 1)
    return True


def _fill(directory, amount):
    """Whether that many bytes fit there, in files of the largest size."""
    written = 0
    with contextlib.ExitStack() as files:
        while written < amount:
            fd = files.enter_context(_scratch(directory))
            written += _filled(fd, min(amount - written, LIMITS["file_bytes"]))
    return f"{written >> 20} MiB"


@contextlib.contextmanager
def _scratch(directory):
    path = f"{directory}/{HOST['token']}-{time.monotonic_ns()}"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        yield fd
    finally:
        os.close(fd)
        os.unlink(path)


def _filled(fd, amount):
    written = 0
    while written < amount:
        written += os.write(fd, CHUNK[: amount - written])
    return written
