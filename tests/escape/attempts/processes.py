"""Other processes"""

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import time

from trying import HOST, LIBC, Absent, SeenFromOutside, attempt, call, child, raw, reached, read

PTRACE_SEIZE, PR_SET_NAME = 0x4206, 15
TIOCSTI, TIOCLINUX, TIOCSCTTY = 0x5412, 0x541C, 0x540E


@attempt
def processes_of_the_host():
    """find a process of the host in /proc"""
    names = [
        read(f"/proc/{pid}/comm")
        for pid in os.listdir("/proc")
        if pid.isdigit() and os.path.exists(f"/proc/{pid}/comm")
    ]
    return HOST["bystander_name"].encode() + b"\n" in names


@attempt
def signal_a_process_of_the_host():
    """send a signal to a process of the host"""
    os.kill(_bystander(), signal.SIGUSR1)
    raise SeenFromOutside("a signal was sent")


@attempt
def signal_a_process_by_descriptor():
    """send a signal to a process of the host through a pidfd"""
    fd = os.pidfd_open(_bystander())
    signal.pidfd_send_signal(fd, 0)
    return True


@attempt
def signal_the_agent():
    """find the agent by its number"""
    pid = HOST["agent_pid"]
    if os.path.exists(f"/proc/{pid}/comm"):
        _not_ours(pid, HOST["agent_name"])
    os.kill(pid, 0)
    return True


def _bystander():
    pid = HOST["bystander_pid"]
    if os.path.exists(f"/proc/{pid}"):
        _not_ours(pid, HOST["bystander_name"])
    return pid


def _not_ours(pid, name):
    if read(f"/proc/{pid}/comm").decode().strip() != name:
        raise Absent("a process of the sandbox happens to have that number")


@attempt
def environment_of_init():
    """read the environment of pid 1, which the agent started"""
    return [v for v in read("/proc/1/environ").split(b"\0") if v and not v.startswith(b"PWD=")]


@attempt
def options_of_init():
    """read how the sandbox was built from the command line of pid 1"""
    return b"bind" in read("/proc/1/cmdline")


@attempt
def memory_of_init():
    """read the memory of pid 1"""
    with open("/proc/1/maps") as maps, open("/proc/1/mem", "rb", 0) as memory:
        memory.seek(int(maps.readline().split("-")[0], 16))
        return len(memory.read(16)) == 16


@attempt
def write_the_memory_of_init():
    """open the memory of pid 1 for writing"""
    os.close(os.open("/proc/1/mem", os.O_RDWR))
    return True


@attempt
def trace_init():
    """ptrace pid 1"""
    return reached("ptrace", PTRACE_SEIZE, 1, 0, 0)


@attempt
def trace_a_child():
    """ptrace a process of one's own"""
    with child() as pid:
        return reached("ptrace", PTRACE_SEIZE, pid, 0, 0)


@attempt
def read_anothers_memory():
    """process_vm_readv, tried on a process of one's own"""
    with child() as pid:
        return reached("process_vm_readv", pid, 0, 0, 0, 0, 0)


@attempt
def write_anothers_memory():
    """process_vm_writev, tried on a process of one's own"""
    with child() as pid:
        return reached("process_vm_writev", pid, 0, 0, 0, 0, 0)


@attempt
def advise_anothers_memory():
    """process_madvise, tried on a process of one's own"""
    with child() as pid:
        return reached("process_madvise", os.pidfd_open(pid), 0, 0, 21, 0)


@attempt
def steal_a_descriptor():
    """pidfd_getfd, tried on a process of one's own"""
    with child() as pid:
        return reached("pidfd_getfd", os.pidfd_open(pid), 0, 0)


@attempt
def compare_processes():
    """kcmp, tried on a process of one's own"""
    with child() as pid:
        return reached("kcmp", os.getpid(), pid, 1, 0, 0)


@attempt
def session_of_the_host():
    """belong to a session of the host"""
    return os.getsid(0) == 0  # how a session whose leader is outside the pid namespace shows


@attempt
def controlling_terminal():
    """open the terminal that the agent was started from"""
    os.close(os.open("/dev/tty", os.O_RDWR))
    return True


@attempt
def type_into_a_terminal():
    """TIOCSTI: type into a terminal (CVE-2017-5226)"""
    return _terminal_call(TIOCSTI)


@attempt
def paste_into_a_console():
    """TIOCLINUX: paste into a virtual console"""
    return _terminal_call(TIOCLINUX)


@attempt
def type_with_high_bits():
    """TIOCSTI with bits above 32, which the kernel ignores and a careless filter does not (CVE-2019-10063)"""
    number = 16 if os.uname().machine == "x86_64" else 29
    with open("/dev/ptmx", "rb+", buffering=0) as terminal:
        raw(number, terminal.fileno(), (1 << 32) | TIOCSTI, b"x")
    return True


def _terminal_call(request):
    with open("/dev/ptmx", "rb+", buffering=0) as terminal:
        try:
            fcntl.ioctl(terminal, request, b"\x03")
        except OSError as error:
            if error.errno in (22, 25):  # the terminal itself did not know it: no filter stood before
                return "the kernel looked at it"
            raise
    return True


@attempt
def lower_the_oom_score():
    """become less likely to be killed when the machine is out of memory"""
    before = int(read("/proc/self/oom_score_adj"))
    if before <= 0:
        raise Absent(f"it starts with a score of {before}")
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("0")
    return f"{before} became {int(read('/proc/self/oom_score_adj'))}"


@attempt
def protection_from_the_oom_killer():
    """ask never to be killed when the machine is out of memory"""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")
    return True


@attempt
def real_time_priority():
    """run before everything else (SCHED_FIFO)"""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return True


@attempt
def deadline_priority():
    """run before even that (SCHED_DEADLINE)"""
    times = (ctypes.c_uint64 * 6)(48 | (6 << 32), 0, 0, 10_000_000, 30_000_000, 30_000_000)
    call("sched_setattr", 0, times, 0)
    return True


@attempt
def higher_priority():
    """nice of -5"""
    os.nice(-5)
    return True


@attempt
def real_time_disk_priority():
    """be served first by the disk (ioprio, real time)"""
    call("ioprio_set", 1, 0, 1 << 13)
    return True


@attempt
def raise_a_limit():
    """raise a hard limit"""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return "there is none"
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard + 1))
    except ValueError as error:  # so Python calls a missing privilege here
        raise PermissionError(1, "EPERM") from error
    return True


@attempt
def limits_of_another():
    """change the limits of pid 1 of the host"""
    resource.prlimit(_bystander(), resource.RLIMIT_NOFILE)
    return True


@attempt
def outlive_the_sandbox():
    """a daemon that goes on after the sandbox's end"""
    _daemon(time.sleep, 30)
    raise SeenFromOutside("a daemon was started")


@attempt
def listen_for_the_host():
    """a port that the host's other users can reach"""
    _daemon(_listen, socket.AF_INET, ("127.0.0.1", HOST["left_port"]))
    raise SeenFromOutside("a daemon listens")


@attempt
def listen_on_an_abstract_name():
    """an abstract socket that the host's other users can reach"""
    _daemon(_listen, socket.AF_UNIX, "\0" + HOST["token"])
    raise SeenFromOutside("a daemon listens")


def _listen(family, address):
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
        until = time.monotonic() + 30
        while time.monotonic() < until:
            listening.settimeout(until - time.monotonic())
            with contextlib.suppress(OSError), listening.accept()[0] as peer:
                peer.sendall(HOST["token"].encode())


def _daemon(work, *arguments):
    """Leaves session, parent and streams behind, as daemons do."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.alarm(0)
            LIBC.prctl(PR_SET_NAME, HOST["daemon_name"].encode(), 0, 0, 0)
            os.closerange(0, 1024)
            try:
                work(*arguments)
            finally:
                os._exit(0)
        os._exit(0)
    time.sleep(0.05)  # until it does what it does
