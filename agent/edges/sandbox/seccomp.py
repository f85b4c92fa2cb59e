"""An OCI seccomp policy (JSON) compiled to the classic BPF that the kernel runs on every system call.

Layout: check the architecture; then the few calls whose arguments matter, one after the other; then a binary search
over runs of call numbers with the same verdict. About 200 instructions, of which a plain call passes 15 to 25.
"""

from __future__ import annotations

import errno
import json
import platform
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent.core.errors import SandboxError

# Classic BPF opcodes (linux/bpf_common.h): load a word of seccomp_data, AND, compare and jump, return.
LOAD, AND, JUMP_EQ, JUMP_GE, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
# Offsets in struct seccomp_data; the low words of the 64-bit arguments, little-endian.
NUMBER_AT, ARCH_AT, ARGS_AT = 0, 4, 16

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# x32 calls have this bit in their number and would slip past rules written for the plain number.
X32_BIT = 0x40000000
_FAIL = -1


class Instruction(NamedTuple):
    """One struct sock_filter."""

    code: int
    if_true: int
    if_false: int
    k: int


class Case(NamedTuple):
    """One rule for one call: every condition holds → `verdict`."""

    conditions: tuple[tuple[int, str, int, int], ...]
    """(argument index, operator, value, second value)."""
    verdict: int


def load_policy() -> dict[str, Any]:
    """The policy that ships with the agent."""
    policy: dict[str, Any] = json.loads(Path(__file__).with_name("seccomp.json").read_text())
    return policy


def syscall_numbers(machine: str) -> dict[str, int]:
    """Call name → number on `machine` (`x86_64`, `aarch64`)."""
    table: dict[str, dict[str, int]] = json.loads(Path(__file__).with_name("syscalls.json").read_text())
    if machine not in table:
        raise SandboxError(f"there is no system call filter for {machine}", remedy="Run the agent on x86_64 or aarch64")
    return table[machine]


def compile_policy(policy: Mapping[str, Any], machine: str = "", deny: Iterable[str] = ()) -> bytes:
    """The filter as an array of struct sock_filter.

    The first rule that fits a call decides; names that `machine` does not have are passed over. `deny` lists calls that
    fail with EPERM whatever the policy says. Conditions compare the low 32 bits of an argument: every argument that the
    policy looks at is an int to the kernel, which ignores the rest, and so must we. Raises SandboxError for an unknown
    machine, ValueError for a policy that cannot be expressed.
    """
    machine = machine or platform.machine()
    numbers = syscall_numbers(machine)
    cases = _cases(policy, numbers)
    for name in deny:
        cases[numbers[name]] = [Case((), ERRNO | errno.EPERM)]
    default = _verdict(policy["defaultAction"], policy.get("defaultErrnoRet", errno.EPERM))
    plain = {n: c[0].verdict for n, c in cases.items() if not c[0].conditions}
    program = _prologue(machine)
    for number in sorted(cases.keys() - plain.keys()):
        block = _conditional(cases[number], default)
        program += [Instruction(JUMP_EQ, 0, len(block), number), *block]
    program += _search(_runs(plain, default))
    return b"".join(struct.pack("<HBBI", *i) for i in program)


def _verdict(action: str, errno_value: int) -> int:
    match action:
        case "SCMP_ACT_ALLOW":
            return ALLOW
        case "SCMP_ACT_ERRNO":
            return ERRNO | errno_value
        case "SCMP_ACT_KILL_PROCESS":
            return KILL_PROCESS
    raise ValueError(f"unsupported seccomp action {action}")


def _cases(policy: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[int, list[Case]]:
    cases: dict[int, list[Case]] = {}
    for rule in policy["syscalls"]:
        conditions = tuple(
            (a["index"], a["op"].removeprefix("SCMP_CMP_"), a["value"], a.get("valueTwo", 0))
            for a in rule.get("args", ())
        )
        case = Case(conditions, _verdict(rule["action"], rule.get("errnoRet", errno.EPERM)))
        for name in rule["names"]:
            if name in numbers:
                cases.setdefault(numbers[name], []).append(case)
    return cases


def _prologue(machine: str) -> list[Instruction]:
    program = [
        Instruction(LOAD, 0, 0, ARCH_AT),
        Instruction(JUMP_EQ, 1, 0, AUDIT_ARCH[machine]),
        Instruction(RETURN, 0, 0, KILL_PROCESS),
        Instruction(LOAD, 0, 0, NUMBER_AT),
    ]
    if machine == "x86_64":
        program += [Instruction(JUMP_GE, 0, 1, X32_BIT), Instruction(RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    return program


def _conditional(cases: list[Case], default: int) -> list[Instruction]:
    """The block for one call: cases in order, the first that fits returns."""
    block: list[Instruction] = []
    for case in cases:
        block += [*_tests(case), Instruction(RETURN, 0, 0, case.verdict)]
        if not case.conditions:
            return block
    return [*block, Instruction(RETURN, 0, 0, default)]


def _tests(case: Case) -> list[Instruction]:
    tests: list[Instruction] = []
    for index, operator, value, second in case.conditions:
        if not (0 <= index < 6 and 0 <= value < 1 << 32 and 0 <= second < 1 << 32):
            raise ValueError(f"seccomp condition out of range: {case}")
        tests.append(Instruction(LOAD, 0, 0, ARGS_AT + 8 * index))
        match operator:
            case "EQ":
                tests.append(Instruction(JUMP_EQ, 0, _FAIL, value))
            case "NE":
                tests.append(Instruction(JUMP_EQ, _FAIL, 0, value))
            case "MASKED_EQ":
                tests += [Instruction(AND, 0, 0, value), Instruction(JUMP_EQ, 0, _FAIL, second)]
            case _:
                raise ValueError(f"unsupported seccomp operator {operator}")
    # A failed condition jumps over the rest of this case's tests and its return.
    return [
        i._replace(
            if_true=len(tests) - at if i.if_true == _FAIL else i.if_true,
            if_false=len(tests) - at if i.if_false == _FAIL else i.if_false,
        )
        for at, i in enumerate(tests)
    ]


def _runs(plain: Mapping[int, int], default: int) -> list[tuple[int, int]]:
    """(first number, verdict) of each run of numbers with one verdict. Numbers past the last rule get the default."""
    runs: list[tuple[int, int]] = []
    for number in range(max(plain) + 2):
        verdict = plain.get(number, default)
        if not runs or runs[-1][1] != verdict:
            runs.append((number, verdict))
    return runs


def _search(runs: list[tuple[int, int]]) -> list[Instruction]:
    if len(runs) == 1:
        return [Instruction(RETURN, 0, 0, runs[0][1])]
    middle = len(runs) // 2
    below, above = _search(runs[:middle]), _search(runs[middle:])
    if len(below) > 0xFF:
        raise ValueError("the seccomp policy is too fragmented for 8-bit jumps")
    return [Instruction(JUMP_GE, len(below), 0, runs[middle][0]), *below, *above]
