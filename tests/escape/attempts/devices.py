"""Devices"""

import os
import stat

from trying import HOST, attempt, call, define

_HARMLESS = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}


@attempt
def other_devices():
    """find a device beyond null, zero, full, random, urandom and terminals"""
    found = []
    for name in os.listdir("/dev"):
        mode = os.lstat(f"/dev/{name}").st_mode
        if name not in _HARMLESS and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            found.append(name)
    return found


@attempt
def make_a_device():
    """mknod of /dev/mem"""
    return _made(0o020600, os.makedev(1, 1))


@attempt
def make_a_disk():
    """mknod of a block device"""
    return _made(0o060600, os.makedev(7, 0))


def _made(mode, device):
    path = f"/tmp/{HOST['token']}-node".encode()
    call("mknodat", -100, path, mode, device)
    os.unlink(path)
    return True


def _opening(path, flags):
    def opened():
        os.close(os.open(path, flags | os.O_NONBLOCK))
        return True

    return opened


for _path, _flags, _tries in (
    ("mem", os.O_RDONLY, "physical memory"),
    ("port", os.O_RDONLY, "I/O ports"),
    ("kmsg", os.O_RDONLY, "the kernel's log"),
    ("fuse", os.O_RDWR, "file systems of its own"),
    ("kvm", os.O_RDWR, "virtual machines"),
    ("net/tun", os.O_RDWR, "network interfaces of its own"),
    ("vhost-net", os.O_RDWR, "the kernel's network of virtual machines"),
    ("vsock", os.O_RDONLY, "the address of this virtual machine"),
    ("loop-control", os.O_RDWR, "files as disks"),
    ("mapper/control", os.O_RDWR, "the device mapper"),
    ("uinput", os.O_WRONLY, "keyboards of its own"),
    ("userfaultfd", os.O_RDWR, "userfaultfd by its device"),
    ("nvidiactl", os.O_RDWR, "a GPU that was not given"),
    ("dri/card0", os.O_RDWR, "a display that was not given"),
    ("tty0", os.O_RDWR, "the console in front of the machine"),
):
    define(f"device_{_path.replace('/', '_').replace('-', '_')}", f"open /dev/{_path}: {_tries}",
           _opening(f"/dev/{_path}", _flags), group=__doc__)  # fmt: skip


@attempt
def disks():
    """open a disk of the host by any name in /dev"""
    found = []
    for name in os.listdir("/dev"):
        if stat.S_ISBLK(os.lstat(f"/dev/{name}").st_mode):
            os.close(os.open(f"/dev/{name}", os.O_RDONLY))
            found.append(name)
            break
    return found
