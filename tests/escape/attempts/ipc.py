"""Shared memory and queues of the host"""

import ctypes
import os

from trying import HOST, LIBC, SeenFromOutside, attempt

IPC_CREAT, IPC_RMID = 0o1000, 0


def _refuse(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@attempt
def shared_memory_of_the_host():
    """attach System V shared memory of the host"""
    return _refuse(LIBC.shmget(HOST["ipc_key"], 0, 0)) >= 0


@attempt
def queue_of_the_host():
    """open a System V message queue of the host"""
    return _refuse(LIBC.msgget(HOST["ipc_key"], 0)) >= 0


@attempt
def semaphore_of_the_host():
    """open a System V semaphore of the host"""
    return _refuse(LIBC.semget(HOST["ipc_key"], 0, 0)) >= 0


@attempt
def shared_memory_for_the_host():
    """make System V shared memory that the host sees"""
    _refuse(LIBC.shmget(HOST["ipc_key"] + 1, 4096, IPC_CREAT | 0o666))
    raise SeenFromOutside("a segment was made")


@attempt
def posix_shared_memory_of_the_host():
    """open POSIX shared memory of the host"""
    os.close(os.open(f"/dev/shm/{HOST['shm_name']}", os.O_RDONLY))
    return True


@attempt
def posix_queue_of_the_host():
    """open a POSIX message queue of the host"""
    return _refuse(LIBC.mq_open(f"/{HOST['queue_name']}".encode(), os.O_RDONLY)) >= 0


@attempt
def posix_queue():
    """make a POSIX message queue, kernel memory that no size bounds"""
    name = f"/{HOST['token']}q".encode()
    _refuse(LIBC.mq_open(name, os.O_RDWR | os.O_CREAT, 0o600, None))
    LIBC.mq_unlink(name)
    return True
