"""Ways out of the sandbox, tried from inside. Runs on the bare standard library of whatever Python 3 is in /usr.

Prints one JSON object, attempt → outcome: `out` when the attempt got through, else why not. `argv[1]` is JSON with what
the host prepared. Every attempt runs in a child of its own, since some may kill it.
"""

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import socket
import sys

HOST = json.loads(sys.argv[1])
LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
NUMBERS = {  # x86_64, aarch64
    "clone3": (435, 435), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "fsopen": (430, 430),
    "open_tree": (428, 428), "pivot_root": (155, 41), "chroot": (161, 51), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "keyctl": (250, 219), "add_key": (248, 217), "bpf": (321, 280),
    "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "userfaultfd": (323, 282), "personality": (135, 92),
    "kexec_load": (246, 104), "init_module": (175, 105), "mknodat": (259, 33), "sethostname": (170, 161),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "syslog": (103, 116), "memfd_secret": (447, 447),
}  # fmt: skip
ATTEMPTS = {}


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


OPEN_AT_START = [fd for fd in range(1024) if is_open(fd)]


def attempt(function):
    ATTEMPTS[function.__name__] = function
    return function


def call(name, *args):
    """A raw system call; raises OSError. What it returns when the kernel only disliked the arguments counts as out:
    the filter should have answered before."""
    ctypes.set_errno(0)
    number = NUMBERS[name][0 if X86 else 1]
    result = LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if result < 0:
        code = ctypes.get_errno()
        if code not in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EACCES):
            return True
        raise OSError(code, os.strerror(code))
    return True


def plain_call(name, *args):
    ATTEMPTS[name] = lambda: call(name, *args)


CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
plain_call("unshare", CLONE_NEWUSER)
plain_call("clone3", 0, 0)
plain_call("mount", b"none", b"/tmp", b"tmpfs", 0, 0)
plain_call("fsopen", b"tmpfs", 0)
plain_call("open_tree", -100, b"/", 1)
plain_call("pivot_root", b"/tmp", b"/tmp")
plain_call("chroot", b"/tmp")
plain_call("ptrace", 16, 1, 0, 0)
plain_call("process_vm_readv", 1, 0, 0, 0, 0, 0)
plain_call("keyctl", 0, -3, 0)
plain_call("add_key", b"user", b"x", b"y", 1, -3)
plain_call("bpf", 0, 0, 0)
plain_call("perf_event_open", 0, 0, -1, -1, 0)
plain_call("io_uring_setup", 1, 0)
plain_call("userfaultfd", 1)
plain_call("personality", 0x0040000)
plain_call("kexec_load", 0, 0, 0, 0)
plain_call("init_module", 0, 0, 0)
plain_call("mknodat", -100, b"/tmp/node", 0o020666, 0x0101)
plain_call("sethostname", b"other", 5)
plain_call("open_by_handle_at", -100, 0, 0)
plain_call("name_to_handle_at", -100, b"/usr", 0, 0, 0)
plain_call("syslog", 3, 0, 0)


@attempt
def clone_user_namespace():
    number = 56 if X86 else 220
    pid = LIBC.syscall(ctypes.c_long(number), ctypes.c_long(CLONE_NEWUSER | signal.SIGCHLD), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return pid > 0


@attempt
def host_file():
    return os.path.exists(HOST["canary"])


@attempt
def home_directories():
    return bool(set(os.listdir("/")) & {"home", "root", "var", "boot", "mnt", "srv"})


@attempt
def host_file_by_init_root():
    return os.path.exists("/proc/1/root" + HOST["canary"])


@attempt
def environment_of_init():
    with open("/proc/1/environ", "rb") as file:
        return any(v and not v.startswith(b"PWD=") for v in file.read().split(b"\0"))


@attempt
def options_of_init():
    with open("/proc/1/cmdline", "rb") as file:
        return b"bind" in file.read()


@attempt
def inherited_descriptors():
    return len(OPEN_AT_START) > 3  # beyond the three standard streams


@attempt
def host_processes():
    return any(int(p) > 200 for p in os.listdir("/proc") if p.isdigit())


@attempt
def kill_the_host_side():
    for pid in (HOST["agent_pid"], os.getppid() + 100_000):
        os.kill(pid, 0)
    return True


@attempt
def loopback_of_the_host():
    socket.create_connection(("127.0.0.1", HOST["tcp_port"]), 2)
    return True


@attempt
def abstract_socket_of_the_host():
    socket.socket(socket.AF_UNIX).connect("\0" + HOST["abstract"])
    return True


@attempt
def the_internet():
    socket.create_connection(("192.0.2.1", 80), 2)
    return True


@attempt
def other_interfaces():
    return any(name != "lo" for _, name in socket.if_nameindex())


@attempt
def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
    return True


def family(name, number, kind=socket.SOCK_STREAM, protocol=0):
    ATTEMPTS[f"socket_{name}"] = lambda: bool(socket.socket(number, kind, protocol))


family("packet", 17, socket.SOCK_RAW)
family("vsock", 40)
family("kernel_crypto", 38, socket.SOCK_SEQPACKET)
family("netfilter", 16, socket.SOCK_RAW, 12)
family("bluetooth", 31, socket.SOCK_RAW)


def writing(name, path):
    def write():
        with open(path, "ab") as file:
            file.write(b"x")
        return True

    ATTEMPTS[f"write_{name}"] = write


for name, path in {
    "root": "/x", "usr": "/usr/x", "etc": "/etc/x", "dev": "/dev/x", "run": "/run/x", "opt": "/opt/x",
    "core_pattern": "/proc/sys/kernel/core_pattern", "hostname": "/proc/sys/kernel/hostname",
    "sysrq": "/proc/sysrq-trigger", "cgroup": "/sys/fs/cgroup/cgroup.procs", "input": "/in/file",
}.items():  # fmt: skip
    writing(name, path)


@attempt
def devices():
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}
    return any(
        os.path.exists(f"/dev/{n}")
        and n not in harmless
        and not os.path.isdir(f"/dev/{n}")
        and not os.path.islink(f"/dev/{n}")
        for n in os.listdir("/dev")
    )


@attempt
def become_root():
    os.setuid(0)
    return os.getuid() == 0


@attempt
def capabilities():
    with open("/proc/self/status") as file:
        return any(int(line.split()[1], 16) for line in file if line.startswith(("CapEff", "CapPrm", "CapBnd")))


@attempt
def gain_privileges():
    return LIBC.prctl(39, 0, 0, 0, 0) != 1  # PR_GET_NO_NEW_PRIVS


@attempt
def no_filter():
    return LIBC.prctl(21, 0, 0, 0, 0) != 2  # PR_GET_SECCOMP


@attempt
def writable_kernel_settings():
    return not os.statvfs("/proc/sys").f_flag & os.ST_RDONLY


@attempt
def session_of_the_host():
    return os.getsid(0) == 0  # how a session leader outside the pid namespace shows


@attempt
def type_into_a_terminal():
    import fcntl

    with open("/dev/ptmx", "rb+", buffering=0) as terminal:
        fcntl.ioctl(terminal, 0x5412, b"x")
    return True


@attempt
def controlling_terminal():
    os.close(os.open("/dev/tty", os.O_RDWR))
    return True


@attempt
def raise_a_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
    return True


@attempt
def real_time_priority():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return True


@attempt
def higher_priority():
    os.nice(-5)
    return True


@attempt
def a_core_dump():
    return resource.getrlimit(resource.RLIMIT_CORE)[1] > 1


def outcome(function):
    """What one attempt comes to, tried in a child: `out`, `closed`, an error's name, or the signal that ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = "out" if function() else "closed"
        except (OSError, ValueError) as error:
            said = errno.errorcode.get(getattr(error, "errno", None), type(error).__name__)
        except BaseException as error:  # noqa: BLE001 (the host reports it)
            said = f"broken attempt: {error!r}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    _, status = os.waitpid(pid, 0)
    return said or f"killed by {os.WTERMSIG(status)}"


# On stderr, the one stream of a sandbox that the agent keeps.
sys.stderr.write(json.dumps({name: outcome(function) for name, function in ATTEMPTS.items()}))
