"""The compiled filter gives the verdict that the policy states, call by call, on a small BPF machine of our own."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import SandboxError
from agent.edges.sandbox.seccomp import AUDIT_ARCH, compile_policy, load_policy, syscall_numbers

MACHINES = ["x86_64", "aarch64"]
ALLOWED, KILLED = "allowed", "killed"
POLICY = load_policy()


def verdict(program, machine, number, args=(), arch=None):
    """Run the filter as the kernel does: `allowed`, `killed` or the errno."""
    seccomp_data = struct.pack(
        "<IIQ6Q", number, arch or AUDIT_ARCH[machine], 0, *(tuple(args) + (0,) * (6 - len(args)))
    )
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, k = instructions[at]
        at += 1
        match code:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                (accumulator,) = struct.unpack_from("<I", seccomp_data, k)
            case 0x54:  # BPF_ALU | BPF_AND | BPF_K
                accumulator &= k
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                at += if_true if accumulator == k else if_false
            case 0x35:  # BPF_JMP | BPF_JGE | BPF_K
                at += if_true if accumulator >= k else if_false
            case 0x06:  # BPF_RET | BPF_K
                return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(k, k & 0xFFFF)
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def stated(name, args=()):
    """The verdict by reading the policy itself: the first rule that fits."""
    for rule in POLICY["syscalls"]:
        if name in rule["names"] and all(fits(c, args) for c in rule.get("args", ())):
            return ALLOWED if rule["action"] == "SCMP_ACT_ALLOW" else rule["errnoRet"]
    return POLICY["defaultErrnoRet"]


def fits(condition, args):
    value = (args[condition["index"]] if condition["index"] < len(args) else 0) & 0xFFFFFFFF
    if condition["op"] == "SCMP_CMP_MASKED_EQ":
        return value & condition["value"] == condition["valueTwo"]
    return value == condition["value"]


@pytest.fixture(scope="module")
def filters():
    return {machine: compile_policy(POLICY, machine) for machine in MACHINES}


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_of_the_machine_gets_the_stated_verdict(filters, machine):
    for name, number in syscall_numbers(machine).items():
        assert verdict(filters[machine], machine, number) == stated(name), name


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_that_no_rule_names_fail_as_not_implemented(filters, machine):
    known = set(syscall_numbers(machine).values())
    for number in {*range(1200), 0x3FFFFFFF, 0xFFFFFFFF} - known:
        assert verdict(filters[machine], machine, number) == errno.ENOSYS


CONDITIONAL = [
    ("clone", (0x3D0F00,), ALLOWED),  # what pthread_create passes
    ("clone", (17,), ALLOWED),  # what fork passes
    ("clone", (0x10000000 | 17,), errno.EPERM),  # CLONE_NEWUSER
    ("clone", (0x00020000,), errno.EPERM),  # CLONE_NEWNS
    ("clone", (0x40000000 | 17,), errno.EPERM),  # CLONE_NEWNET
    ("clone3", (), errno.ENOSYS),
    ("socket", (1, 1, 0), ALLOWED),
    ("socket", (2, 1, 0), ALLOWED),
    ("socket", (10, 1, 0), ALLOWED),
    ("socket", (2, 1 | 0o2000000 | 0o4000, 6), ALLOWED),  # TCP, close on exec, non-blocking
    ("socket", (10, 2, 17), ALLOWED),  # UDP
    ("socket", (2, 1, 262), errno.EAFNOSUPPORT),  # MPTCP
    ("socket", (2, 1, 132), errno.EAFNOSUPPORT),  # SCTP
    ("socket", (10, 5, 0), errno.EAFNOSUPPORT),  # SCTP by its type
    ("socket", (2, 6, 0), errno.EAFNOSUPPORT),  # DCCP by its type
    ("socket", (2, 2, 136), errno.EAFNOSUPPORT),  # UDP-Lite
    ("socket", (2, 3, 1), errno.EAFNOSUPPORT),  # raw
    ("socket", (16, 3, 0), ALLOWED),
    ("socket", (16, 3, 12), errno.EAFNOSUPPORT),  # netfilter
    ("socket", (17, 3, 0), errno.EAFNOSUPPORT),  # raw packets
    ("socket", (40, 1, 0), errno.EAFNOSUPPORT),  # vsock
    ("socket", (38, 5, 0), errno.EAFNOSUPPORT),  # kernel crypto
    ("ioctl", (0, 0x5401), ALLOWED),
    ("ioctl", (0, 0x5412), errno.EPERM),  # TIOCSTI
    ("ioctl", (0, 0x7 << 32 | 0x5412), errno.EPERM),  # the kernel looks at 32 bits only
    ("ioctl", (0, 0x541C), errno.EPERM),
    ("personality", (0xFFFFFFFF,), ALLOWED),
    ("personality", (0x0040000,), errno.EPERM),
    ("ptrace", (), errno.EPERM),
    ("keyctl", (), errno.EPERM),
    ("mount", (), errno.EPERM),
    ("io_uring_setup", (), errno.ENOSYS),
    ("memfd_create", (), ALLOWED),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("name", "args", "expected"), CONDITIONAL)
def test_arguments_decide_where_they_should(filters, machine, name, args, expected):
    assert verdict(filters[machine], machine, syscall_numbers(machine)[name], args) == expected


RULES = [(rule, name) for rule in POLICY["syscalls"] for name in rule["names"]]


@pytest.mark.parametrize("machine", MACHINES)
def test_every_rule_decides_a_call_of_its_own(filters, machine):
    """The example meets the rule's conditions and no earlier rule's, so that a rule that could never fit is found."""
    numbers = syscall_numbers(machine)
    for rule, name in RULES:
        if name in numbers:
            args = example(rule, name)
            expected = ALLOWED if rule["action"] == "SCMP_ACT_ALLOW" else rule["errnoRet"]
            assert verdict(filters[machine], machine, numbers[name], args) == expected, (name, args)


def example(rule, name):
    """Arguments that this rule is the first to fit: those that its conditions name, and any others."""
    earlier = POLICY["syscalls"][: POLICY["syscalls"].index(rule)]
    earlier = [other for other in earlier if name in other["names"]]
    for filler in (0x7E, 0, 1, 2, 3, 5, 9, 0x10000000, 0x7FFFFFFF, 0xFFFFFFFF):
        args = [filler] * 6
        for condition in rule.get("args", ()):
            masked = condition["op"] == "SCMP_CMP_MASKED_EQ"
            args[condition["index"]] = condition["valueTwo" if masked else "value"]
        if not any(all(fits(c, args) for c in other.get("args", ())) for other in earlier):
            return tuple(args)
    raise AssertionError(f"no call gets to this rule: {name}, {rule}")


@pytest.mark.parametrize("machine", MACHINES)
def test_an_allowed_call_of_the_other_word_size_is_never_let_through(filters, machine):
    """By x32 numbers, int 0x80 or a 32-bit ARM binary: for every call that the policy allows outright."""
    other = {"x86_64": 0x40000003, "aarch64": 0x40000028}[machine]  # AUDIT_ARCH_I386, AUDIT_ARCH_ARM
    for number in range(600):
        assert verdict(filters[machine], machine, number, arch=other) == KILLED
        assert verdict(filters[machine], machine, 0x40000000 | number) == errno.ENOSYS


@given(
    machine=st.sampled_from(MACHINES),
    name=st.sampled_from(["clone", "socket", "ioctl", "personality", "read"]),
    args=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 64), max_size=6).map(tuple),
)
def test_any_arguments_get_the_stated_verdict(filters, machine, name, args):
    assert verdict(filters[machine], machine, syscall_numbers(machine)[name], args) == stated(name, args)


def test_calls_of_another_architecture_kill(filters):
    assert verdict(filters["x86_64"], "x86_64", 1, arch=0x40000003) == KILLED  # int 0x80
    assert verdict(filters["aarch64"], "aarch64", 1, arch=AUDIT_ARCH["x86_64"]) == KILLED


def test_the_x32_twin_of_an_allowed_call_is_not_implemented(filters):
    assert verdict(filters["x86_64"], "x86_64", 0x40000000 | 1) == errno.ENOSYS


def test_a_denied_call_is_refused_though_the_policy_allows_it():
    number = syscall_numbers("x86_64")["sched_setaffinity"]
    assert verdict(compile_policy(POLICY, "x86_64"), "x86_64", number) == ALLOWED
    assert verdict(compile_policy(POLICY, "x86_64", deny=("sched_setaffinity",)), "x86_64", number) == errno.EPERM


def test_every_name_in_the_policy_exists_on_some_machine():
    known = set().union(*(syscall_numbers(machine) for machine in MACHINES))
    assert {name for rule in POLICY["syscalls"] for name in rule["names"]} <= known


def test_no_call_is_both_allowed_and_denied_outright():
    names = [name for rule in POLICY["syscalls"] if "args" not in rule for name in rule["names"]]
    assert len(names) == len(set(names))


def test_the_kernel_takes_the_filter_size(filters):
    assert all(len(program) // 8 < 4096 for program in filters.values())


@pytest.mark.parametrize(
    "condition",
    [
        {"index": 0, "op": "SCMP_CMP_GE", "value": 1},
        {"index": 0, "op": "SCMP_CMP_EQ", "value": 1 << 32},
        {"index": 6, "op": "SCMP_CMP_EQ", "value": 1},
    ],
)
def test_a_policy_that_cannot_be_expressed_is_refused(condition):
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [condition]}
    with pytest.raises(ValueError, match="seccomp"):
        compile_policy({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}, "x86_64")


def test_a_machine_without_a_table_is_refused():
    with pytest.raises(SandboxError, match="riscv64"):
        compile_policy(POLICY, "riscv64")
