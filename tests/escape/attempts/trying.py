"""What an attempt is and what comes of it. Bare standard library: it runs inside, on whatever Python 3 is in /usr.

An attempt is a function. What it returns is what it got: text or True means that it got through, nothing that there was
nothing to get. An OSError is a refusal. Each is harmless where it succeeds, since some run without any sandbox to prove
that they can.
"""

import contextlib
import ctypes
import errno
import json
import os
import platform
import signal
import sys

HOST = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
"""What the host prepared to be reached; see tests/escape/surroundings.py."""
LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
PATIENCE_S = 20


def _is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


OPEN_AT_START = [fd for fd in range(1024) if _is_open(fd)]
REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT)
"""What a filter or a missing privilege answers. Any other error means that the kernel looked at the arguments."""
ATTEMPTS = {}

_NUMBERS = {  # x86_64, aarch64 (None: it has none)
    "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "chroot": (161, 51), "clock_adjtime": (305, 266),
    "clone": (56, 220), "clone3": (435, 435), "delete_module": (176, 106), "fanotify_init": (300, 262),
    "file_getattr": (468, 468), "finit_module": (313, 273), "fsmount": (432, 432), "fsopen": (430, 430),
    "fspick": (433, 433), "getpid": (39, 172), "init_module": (175, 105), "io_uring_setup": (425, 425),
    "ioperm": (173, None), "iopl": (172, None), "ioprio_set": (251, 30), "kcmp": (312, 272),
    "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "landlock_create_ruleset": (444, 444), "listmount": (458, 458), "lsm_get_self_attr": (459, 459),
    "memfd_secret": (447, 447), "mknodat": (259, 33), "modify_ldt": (154, None), "mount": (165, 40),
    "mount_setattr": (442, 442), "move_mount": (429, 429), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "perf_event_open": (298, 241), "personality": (135, 92),
    "pidfd_getfd": (438, 438), "pidfd_open": (434, 434), "pivot_root": (155, 41), "process_madvise": (440, 440),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "reboot": (169, 142), "request_key": (249, 218), "sched_setattr": (314, 274),
    "setdomainname": (171, 162), "setns": (308, 268), "sethostname": (170, 161), "settimeofday": (164, 170),
    "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97),
    "userfaultfd": (323, 282), "vmsplice": (278, 75),
}  # fmt: skip


class Absent(Exception):
    """It cannot be tried here; says why."""


class SeenFromOutside(Exception):
    """It was done; whether that reached anything, only the host can tell. Says what was done."""


def attempt(function=None, *, alone=False):
    """Registers a function under its name. `alone`: in a sandbox of its own, since it may end all that is in it."""

    def register(made):
        assert made.__name__ not in ATTEMPTS, made.__name__
        ATTEMPTS[made.__name__] = (sys.modules[made.__module__].__doc__, made.__doc__, made, alone)
        return made

    return register(function) if function else register


def define(name, tries, function, *, group):
    """Registers one line of a table of attempts; `group` is the module's docstring."""
    assert name not in ATTEMPTS, name
    ATTEMPTS[name] = (group, tries, function, False)


def number(name):
    """The system call's number on this machine; Absent where it has none."""
    found = _NUMBERS[name][0 if X86 else 1]
    if found is None:
        raise Absent("this processor has no such call")
    return found


def raw(call, *args):
    """A system call by number: its result; OSError."""
    ctypes.set_errno(0)
    result = LIBC.syscall(ctypes.c_long(call), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def call(name, *args):
    """A system call by name: its result; OSError."""
    return raw(number(name), *args)


def reached(name, *args):
    """Whether the kernel itself answers a call, be it with a complaint about the arguments. Raises OSError."""
    try:
        call(name, *args)
    except OSError as error:
        if error.errno in REFUSALS:
            raise
        return f"the kernel looked at it: {errno.errorcode[error.errno]}"
    return "done"


@contextlib.contextmanager
def child():
    """The pid of a process of ours that waits to be killed."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(0)
        signal.pause()
        os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def read(path, limit=1 << 16):
    """The first bytes of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def outcome(function):
    """[verdict, what it got] of one attempt, made in a child: some end the process that makes them."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.alarm(PATIENCE_S)
        made, said = os.getpid(), _tried(function)
        if os.getpid() == made:  # else a process that the attempt made has come here through an exception
            os.write(writer, json.dumps(said).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    _, status = os.waitpid(pid, 0)
    if said:
        return json.loads(said)
    ended_by = os.WTERMSIG(status)
    return ["broken" if ended_by == signal.SIGALRM else "blocked", f"killed by {signal.Signals(ended_by).name}"]


def _tried(function):
    try:
        got = function()
    except Absent as why:
        return ["absent", str(why)]
    except SeenFromOutside as what:
        return ["outside", str(what)]
    except OSError as error:
        return ["blocked", errno.errorcode.get(error.errno) or type(error).__name__]
    except BaseException as error:  # noqa: BLE001 (the host reports it)
        return ["broken", repr(error)]
    return ["open", "done" if got is True else str(got)[:200]] if got else ["blocked", "nothing there"]
