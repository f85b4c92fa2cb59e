"""Namespaces and mounts"""

import ctypes
import os
import signal

from trying import HOST, attempt, call, define, number, raw, reached

NAMESPACES = {
    "time": 0x00000080, "mount": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000,
    "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000,
}  # fmt: skip
AT_FDCWD, OPEN_TREE_CLONE = -100, 1
MS_BIND_REMOUNT = 0x1000 | 0x20


def _unsharing(flag):
    # Beside another user namespace where a privilege is missing, as an attacker would.
    def unshare():
        try:
            call("unshare", flag)
        except OSError:
            call("unshare", flag | NAMESPACES["user"])
        return True

    return unshare


for _name, _flag in NAMESPACES.items():
    define(f"unshare_{_name}", f"unshare: another {_name} namespace", _unsharing(_flag), group=__doc__)


@attempt
def clone_user_namespace():
    """clone with CLONE_NEWUSER"""
    return _cloned(NAMESPACES["user"])


@attempt
def clone_with_high_bits():
    """clone with CLONE_NEWUSER and bits above 32, which the kernel ignores"""
    return _cloned((1 << 40) | NAMESPACES["user"])


def _cloned(flags):
    pid = raw(number("clone"), flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return True


@attempt
def clone3():
    """clone3, whose flags no filter can see"""
    return reached("clone3", 0, 0)


@attempt
def join_a_namespace():
    """setns into a namespace of pid 1"""
    with open("/proc/1/ns/uts") as namespace:
        return reached("setns", namespace.fileno(), 0)


@attempt
def join_by_process():
    """setns by a pidfd"""
    return reached("setns", os.pidfd_open(os.getppid()), NAMESPACES["uts"])


@attempt
def allow_groups():
    """setgroups allowed again in the own user namespace"""
    with open("/proc/self/setgroups", "w") as file:
        file.write("allow")
    return True


@attempt
def more_user_namespaces():
    """raise the limit that forbids user namespaces"""
    os.close(os.open("/proc/sys/user/max_user_namespaces", os.O_WRONLY))
    return True


@attempt
def mount_tmpfs():
    """mount: a tmpfs"""
    return _mounted(b"tmpfs", b"")


@attempt
def mount_overlay():
    """mount: an overlay (CVE-2021-3493, CVE-2023-0386)"""
    place = f"/tmp/{HOST['token']}-o"
    for name in ("", "/l", "/u", "/w"):
        os.makedirs(place + name, exist_ok=True)
    return _mounted(b"overlay", f"lowerdir={place}/l,upperdir={place}/u,workdir={place}/w".encode())


@attempt
def mount_proc():
    """mount: a /proc without our covers"""
    return _mounted(b"proc", b"")


@attempt
def mount_cgroup():
    """mount: the tree of cgroups"""
    return _mounted(b"cgroup2", b"")


def _mounted(kind, data):
    """Mounts, and takes it away at once."""
    place = f"/tmp/{HOST['token']}-m".encode()
    os.makedirs(place, exist_ok=True)
    call("mount", HOST["token"].encode(), place, kind, 0, data)
    call("umount2", place, 2)
    return True


@attempt
def remount_writable():
    """mount: the root, or /usr, writable again"""
    # On no mount point, so that the control run changes nothing.
    place = f"/tmp/{HOST['token']}-r".encode()
    os.makedirs(place, exist_ok=True)
    return reached("mount", b"", place, b"", MS_BIND_REMOUNT, 0)


@attempt
def take_a_mount_away():
    """umount, of what covers something"""
    place = f"/tmp/{HOST['token']}-u".encode()
    os.makedirs(place, exist_ok=True)
    return reached("umount2", place, 0)


@attempt
def pivot_root():
    """pivot_root"""
    return reached("pivot_root", b"/tmp", b"/tmp")


@attempt
def chroot():
    """chroot, and out of it by a descriptor"""
    call("chroot", b"/tmp")
    return True


@attempt
def new_mount_fsopen():
    """fsopen, the newer way to mount"""
    return reached("fsopen", b"tmpfs", 0)


@attempt
def new_mount_fspick():
    """fspick, the newer way to reconfigure a mount"""
    return reached("fspick", AT_FDCWD, b"/", 0)


@attempt
def new_mount_fsmount():
    """fsmount"""
    return reached("fsmount", -1, 0, 0)


@attempt
def new_mount_open_tree():
    """open_tree: a copy of a mount"""
    return reached("open_tree", AT_FDCWD, b"/", OPEN_TREE_CLONE)


@attempt
def new_mount_move():
    """move_mount: something else over what we see"""
    return reached("move_mount", -1, b"", -1, b"", 0)


@attempt
def new_mount_attributes():
    """mount_setattr: writable again"""
    writable = (ctypes.c_uint64 * 4)(0, 1, 0, 0)  # clear MOUNT_ATTR_RDONLY
    return reached("mount_setattr", -1, b"x", 0, writable, 32)


@attempt
def list_mounts():
    """listmount: what is mounted where"""
    return reached("listmount", 0, 0, 0, 0)
