"""Privileges"""

import ctypes
import os
import shutil
import stat
import subprocess

from trying import HOST, LIBC, Absent, SeenFromOutside, attempt, read

PR_SET_SECUREBITS, PR_CAP_AMBIENT, CAP_SYS_ADMIN = 28, 47, 21


def _capabilities(*kinds):
    lines = read("/proc/self/status").decode().splitlines()
    return {line.split()[0]: line.split()[1] for line in lines if line.startswith(kinds) and int(line.split()[1], 16)}


@attempt
def become_root():
    """setuid(0)"""
    if os.getuid() == 0:
        return "it is root already"
    os.setuid(0)
    return True


@attempt
def root_of_the_host():
    """be user 0 of the host, whatever the number inside"""
    raise SeenFromOutside(f"it calls itself {os.getuid()}")


@attempt
def become_another_user():
    """setresuid to a user that is not ours"""
    os.setresuid(1234, 1234, 1234)
    return True


@attempt
def join_groups():
    """setgroups: disk, docker, video"""
    os.setgroups([6, 44, 999])
    return True


@attempt
def groups_of_the_agent():
    """keep supplementary groups of the agent"""
    return [group for group in os.getgroups() if group not in (65534, os.getgid())]


@attempt
def capabilities():
    """hold a capability"""
    return _capabilities("CapEff", "CapPrm")


@attempt
def capabilities_within_reach():
    """leave a capability in the bounding set"""
    return _capabilities("CapBnd")


@attempt
def ambient_capability():
    """raise an ambient capability (CAP_SYS_ADMIN)"""
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    LIBC.capget(header, sets)
    sets[2] |= 1 << CAP_SYS_ADMIN  # inheritable, which an ambient one has to be
    LIBC.capset(header, sets)
    return LIBC.prctl(PR_CAP_AMBIENT, 2, CAP_SYS_ADMIN, 0, 0) == 0


@attempt
def secure_bits():
    """PR_SET_SECUREBITS"""
    return LIBC.prctl(PR_SET_SECUREBITS, 0, 0, 0, 0) == 0


@attempt
def setuid_program():
    """run a setuid program of the host and be root in it"""
    if os.getuid() == 0:
        raise Absent("it is root already")
    program = next((p for p in ("/usr/bin/su", "/bin/su") if os.path.exists(p)), None)
    if program is None or not os.stat(program).st_mode & stat.S_ISUID:
        raise Absent("there is no setuid program")
    running = subprocess.Popen(
        [program, "-c", "true"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        running.wait(0.3)
    except subprocess.TimeoutExpired:
        ids = next(line for line in read(f"/proc/{running.pid}/status").decode().splitlines() if line.startswith("Uid"))
        return "0" in ids.split()[1:]
    finally:
        running.kill()
        running.wait()
    return False


@attempt
def setuid_program_of_its_own():
    """a setuid root program in /tmp"""
    path = f"/tmp/{HOST['token']}-su"
    shutil.copy("/usr/bin/true", path)
    try:
        os.chown(path, 0, 0)
        os.chmod(path, 0o4755)
        return bool(os.stat(path).st_mode & stat.S_ISUID) and os.stat(path).st_uid == 0
    finally:
        os.unlink(path)


@attempt
def program_with_capabilities():
    """give a program in /tmp a capability"""
    path = f"/tmp/{HOST['token']}-cap"
    shutil.copy("/usr/bin/true", path)
    try:
        os.setxattr(path, "security.capability", b"\x01\x00\x00\x02\x00\x20" + b"\0" * 14)  # CAP_NET_RAW
    finally:
        os.unlink(path)
    return True


@attempt
def trusted_attributes():
    """write attributes that only the host's root may (overlays, cgroup delegation)"""
    path = f"/tmp/{HOST['token']}-attr"
    with open(path, "w"):
        pass
    try:
        os.setxattr(path, "trusted.delegate", b"1")
    finally:
        os.unlink(path)
    return True
