"""Files of the host"""

import os
import stat

from trying import HOST, OPEN_AT_START, SeenFromOutside, attempt, define, reached, read


@attempt
def host_file():
    """read a file of the host by its path"""
    return read(HOST["canary"])


@attempt
def secret_of_the_agent():
    """read a file that only the agent's user may read"""
    return read(HOST["secret"])


@attempt
def write_a_host_file():
    """append to a file of the host"""
    return _appended(HOST["canary"])


@attempt
def write_an_input():
    """append to an input of the task"""
    return _appended(HOST["input"] + "/file")


def _appended(path):
    with open(path, "a") as file:
        file.write(" and more")
    return True


@attempt
def home_directories():
    """find /home, /root, /var, /boot, /mnt or /srv"""
    return sorted(set(os.listdir("/")) & {"home", "root", "var", "boot", "mnt", "srv"})


@attempt
def accounts():
    """read /etc/passwd or /etc/shadow"""
    return any(os.access(path, os.R_OK) for path in ("/etc/passwd", "/etc/shadow"))


@attempt
def root_of_init():
    """a host file through /proc/1/root"""
    return read("/proc/1/root" + HOST["canary"])


@attempt
def roots_and_directories_of_processes():
    """a host file through /proc/*/root and /proc/*/cwd"""
    places = [f"/proc/{pid}/{what}" for pid in os.listdir("/proc") if pid.isdigit() for what in ("root", "cwd")]
    up = "/.." * 20
    return any(os.path.exists(place + way + HOST["canary"]) for place in places for way in ("", up))


@attempt
def above_a_mount():
    """climb out of a bound directory with .. from its descriptor"""
    fd = os.open(HOST["input"], os.O_RDONLY | os.O_DIRECTORY)
    os.close(os.open("../" * 20 + HOST["canary"].lstrip("/"), os.O_RDONLY, dir_fd=fd))
    return True


@attempt
def inherited_descriptors():
    """find a descriptor beyond the three streams"""
    return [fd for fd in OPEN_AT_START if fd > 2]


@attempt
def descriptors_of_init():
    """open a file that the sandbox's first process has open"""
    found = []
    for fd in os.listdir("/proc/1/fd"):
        target = os.readlink(f"/proc/1/fd/{fd}")
        if target.startswith("/") and target != "/dev/null":
            found.append(target)
    return found


@attempt
def program_of_init():
    """write to the program that runs as pid 1 (CVE-2019-5736)"""
    try:
        os.close(os.open("/proc/1/exe", os.O_WRONLY))
    except OSError as error:
        if error.strerror == "Text file busy":
            return "allowed, once it does not run"
        raise
    return True


@attempt
def own_program():
    """write to the interpreter that runs this"""
    try:
        os.close(os.open("/proc/self/exe", os.O_WRONLY))
    except OSError as error:
        if error.strerror == "Text file busy":
            return "allowed, once it does not run"
        raise
    return True


@attempt
def file_by_handle():
    """open_by_handle_at, a file without its path (shocker)"""
    return reached("open_by_handle_at", -100, 0, 0)


@attempt
def handle_of_a_file():
    """name_to_handle_at, the first half of that"""
    return reached("name_to_handle_at", -100, b"/usr", 0, 0, 0)


@attempt
def hard_link_out():
    """hard-link an input into a writable place"""
    os.link(HOST["input"] + "/file", f"/tmp/{HOST['token']}-link")
    os.unlink(f"/tmp/{HOST['token']}-link")
    return True


@attempt
def file_in_the_hosts_tmp():
    """make a file in /tmp that the host sees"""
    return _left_in("/tmp")


@attempt
def file_in_the_hosts_shared_memory():
    """make a file in /dev/shm that the host sees"""
    return _left_in("/dev/shm")


def _left_in(directory):
    with open(f"{directory}/{HOST['token']}", "w"):
        raise SeenFromOutside("a file was made")


@attempt
def writable_file_systems():
    """find a writable mount beyond /tmp, /dev/shm, /proc, /sock and /out"""
    known = ("/tmp", "/dev/shm", "/proc", HOST["sock"], "/out", "/dev/mqueue", "/dev/pts")
    places = [line.split() for line in read("/proc/self/mountinfo").decode().splitlines()]
    points = {fields[4] for fields in places if os.path.isdir(fields[4])} - set(known)
    return [point for point in points if os.access(point, os.W_OK) and not os.statvfs(point).f_flag & os.ST_RDONLY]


@attempt
def writable_kernel_settings():
    """find /proc/sys mounted writable"""
    return not os.statvfs("/proc/sys").f_flag & os.ST_RDONLY


@attempt
def hidden_devices_in_the_file_system():
    """find a device file below /usr, /etc or /tmp"""
    found = []
    for top in ("/etc", "/opt", "/srv", "/tmp"):
        for place, _, names in os.walk(top):
            for name in names:
                try:
                    mode = os.lstat(os.path.join(place, name)).st_mode
                except OSError:
                    continue
                if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                    found.append(os.path.join(place, name))
        if found:
            break
    return found


def _writing(path):
    def write():
        """Making a file where it is a directory; else opening, without a byte: some act on what is written."""
        made = path.endswith("/")
        target = path + HOST["token"] if made else path
        os.close(os.open(target, os.O_WRONLY | (os.O_CREAT if made else 0)))
        if made:
            os.unlink(target)
        return True

    return write


for _name, _path, _tries in (
    ("root", "/", "make a file in /"),
    ("usr", "/usr/", "make a file in /usr"),
    ("etc", "/etc/", "make a file in /etc"),
    ("dev", "/dev/", "make a file in /dev"),
    ("run", "/run/", "make a file in /run"),
    ("core_pattern", "/proc/sys/kernel/core_pattern", "set the program that gets core dumps"),
    ("modprobe", "/proc/sys/kernel/modprobe", "set the program that loads modules"),
    ("hostname", "/proc/sys/kernel/hostname", "set the host's name through /proc"),
    ("overcommit", "/proc/sys/vm/overcommit_memory", "change how memory is promised"),
    ("binfmt_misc", "/proc/sys/fs/binfmt_misc/register", "register an interpreter for programs"),
    ("sysrq", "/proc/sysrq-trigger", "order the kernel about through sysrq"),
    ("uevent_helper", "/sys/kernel/uevent_helper", "set the program that hears of devices"),
    ("cgroup", "/sys/fs/cgroup/cgroup.procs", "move into another cgroup (version 2)"),
    ("cgroup_v1", "/sys/fs/cgroup/memory/cgroup.procs", "move into another cgroup (version 1)"),
    ("release_agent", "/sys/fs/cgroup/memory/release_agent", "set the program that clears cgroups (CVE-2022-0492)"),
    ("irq", "/proc/irq/default_smp_affinity", "redirect interrupts"),
    ("mtrr", "/proc/mtrr", "change the types of physical memory"),
):
    define(f"write_{_name}", _tries, _writing(_path), group=__doc__)


@attempt
def read_kallsyms():
    """read the kernel's addresses"""
    return any(int(line.split()[0], 16) for line in read("/proc/kallsyms", 1 << 14).splitlines()[:-1])


def _reading(path):
    return lambda: bool(read(path, 64).strip(b"0 \n"))


for _name, _path, _tries in (
    ("kcore", "/proc/kcore", "read the kernel's memory"),
    ("kmsg", "/proc/kmsg", "read the kernel's log"),
    ("keys", "/proc/keys", "list keys of the kernel's keyring"),
    ("vmallocinfo", "/proc/vmallocinfo", "read where the kernel put what"),
    ("debugfs", "/sys/kernel/debug/sched/debug", "read debugfs"),
    ("tracefs", "/sys/kernel/tracing/trace", "read traces of the kernel"),
    ("firmware", "/sys/firmware/dmi/tables/DMI", "read firmware tables"),
    ("efi", "/sys/firmware/efi/systab", "read EFI's tables"),
):
    define(f"read_{_name}", _tries, _reading(_path), group=__doc__)
