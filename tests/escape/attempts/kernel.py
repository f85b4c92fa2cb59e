"""The kernel's surface"""

import ctypes
import mmap
import os
import resource
import signal

from trying import HOST, LIBC, X86, Absent, attempt, call, define, number, raw, reached, read

X32 = 0x40000000
PR_GET_NO_NEW_PRIVS, PR_GET_SECCOMP, PR_SET_SECCOMP, PR_SET_MM = 39, 21, 22, 35


def _reaching(name, *arguments):
    return lambda: reached(name, *arguments)


for _name, _call, _arguments, _tries in (
    ("bpf_program", "bpf", (5, 0, 0), "bpf: load a program"),
    ("bpf_map", "bpf", (0, 0, 0), "bpf: make a map"),
    ("io_uring", "io_uring_setup", (1, 0), "io_uring, which no filter sees into"),
    ("userfaultfd", "userfaultfd", (1,), "userfaultfd, which stops the kernel at will"),
    ("keyctl", "keyctl", (0, -3, 0), "keyctl: the session's keys"),
    ("add_key", "add_key", (b"user", b"x", b"y", 1, -3), "add_key"),
    ("request_key", "request_key", (b"user", b"x", 0, 0), "request_key, which starts a program of the host"),
    ("personality", "personality", (0x0040000,), "personality: no address randomisation"),
    ("kexec", "kexec_load", (0, 0, 0, 0xFFFF), "kexec_load: another kernel"),
    ("kexec_by_file", "kexec_file_load", (-1, -1, 0, 0, 0xFFFF), "kexec_file_load: another kernel"),
    ("module", "init_module", (0, 0, 0), "init_module"),
    ("module_by_file", "finit_module", (-1, b"", 0), "finit_module"),
    ("remove_a_module", "delete_module", (b"no_such_module", 0x800), "delete_module"),
    ("memfd_secret", "memfd_secret", (0,), "memfd_secret: memory that nobody can measure"),
    ("fanotify", "fanotify_init", (0, 0), "fanotify: watch what others open"),
    ("quotactl", "quotactl", (0x80000700, b"/no/disk", 0, 0), "quotactl: quotas of a disk"),
    ("quotactl_by_descriptor", "quotactl_fd", (1, 0x80000700, 0, 0), "quotactl_fd"),
    ("accounting", "acct", (b"/no/file",), "acct: a record of every process"),
    ("swap_on", "swapon", (b"/no/file", 0), "swapon"),
    ("swap_off", "swapoff", (b"/no/file",), "swapoff"),
    ("reboot", "reboot", (0, 0, 0, 0), "reboot"),
    ("set_time_of_day", "settimeofday", (0, 0), "settimeofday"),
    ("kernel_log", "syslog", (3, 0, 0), "syslog: the kernel's log"),
    ("io_privilege", "iopl", (3,), "iopl: I/O ports"),
    ("io_permission", "ioperm", (0x80, 1, 1), "ioperm: one I/O port"),
    ("descriptor_table", "modify_ldt", (0, 0, 0), "modify_ldt: segments of its own"),
    ("splice_memory", "vmsplice", (-1, 0, 0, 0), "vmsplice: pages of its own into pipes"),
    ("security_modules", "lsm_get_self_attr", (100, 0, 0, 0), "lsm_get_self_attr: a call younger than the filter"),
    ("newest_call", "file_getattr", (-100, b"/", 0, 0, 0), "file_getattr: a call younger than the filter"),
    ("landlock", "landlock_create_ruleset", (0, 0, 1), "landlock: a box within the box"),
):  # fmt: skip
    define(_name, _tries, _reaching(_call, *_arguments), group=__doc__)


@attempt
def performance_counters():
    """perf_event_open: measure the machine"""
    wanted = (ctypes.c_uint32 * 32)(1, 128)  # a software counter
    return reached("perf_event_open", wanted, 0, -1, -1, 0)


@attempt
def set_the_clock():
    """clock_adjtime, to what it is already"""
    times = (ctypes.c_uint8 * 512)()
    ctypes.c_uint32.from_buffer(times).value = 0x0002  # ADJ_FREQUENCY
    now = (ctypes.c_uint8 * 512)()
    LIBC.clock_adjtime(0, now)
    times[16:24] = now[16:24]
    call("clock_adjtime", 0, times)
    return True


@attempt
def set_the_hostname():
    """sethostname, to what it is already"""
    name = os.uname().nodename.encode()
    call("sethostname", name, len(name))
    return True


@attempt
def set_the_domain():
    """setdomainname, to what it is already"""
    name = read("/proc/sys/kernel/domainname").strip()
    call("setdomainname", name, len(name))
    return True


@attempt
def no_filter():
    """run without a system call filter"""
    return LIBC.prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 2


@attempt
def gain_privileges():
    """run without no_new_privs"""
    return LIBC.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1


@attempt
def take_the_filter_off():
    """prctl: leave filter mode, and then call what it forbids"""
    LIBC.prctl(PR_SET_SECCOMP, 0, 0, 0, 0)
    return reached("personality", 0x0040000)


@attempt
def filter_of_its_own():
    """a younger filter that allows all"""
    allow = (ctypes.c_uint64 * 1)(6 | (0x7FFF0000 << 32))
    program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(allow))
    LIBC.prctl(38, 1, 0, 0, 0)
    LIBC.prctl(PR_SET_SECCOMP, 2, program, 0, 0)
    return reached("personality", 0x0040000)


@attempt
def memory_map_of_the_kernels_view():
    """PR_SET_MM: lie about one's own memory"""
    ctypes.set_errno(0)
    if LIBC.prctl(PR_SET_MM, 1, 0x10000, 0, 0) < 0 and ctypes.get_errno() == 1:
        raise PermissionError(1, "EPERM")
    return True


@attempt
def calls_of_32_bits():
    """int 0x80: the other numbers of system calls"""
    if not X86:
        raise Absent("this processor has no such instruction")
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid()


@attempt
def calls_of_x32():
    """x32: the same calls under numbers that a careless filter does not know"""
    if not X86:
        raise Absent("this processor has no such calls")
    return raw(X32 | number("getpid")) == os.getpid()


@attempt
def numbers_past_the_end():
    """a number that no kernel has"""
    return raw(100_000) >= 0


@attempt
def core_of_a_crash():
    """a core dump, which a program of the host may read as root"""
    pid = os.fork()
    if pid == 0:
        os.makedirs(f"/tmp/{HOST['token']}-core", exist_ok=True)
        os.chdir(f"/tmp/{HOST['token']}-core")
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    _, status = os.waitpid(pid, 0)
    return os.WCOREDUMP(status)


@attempt
def limit_of_core_dumps():
    """a core dump of more than a byte"""
    return resource.getrlimit(resource.RLIMIT_CORE)[1] > 1
