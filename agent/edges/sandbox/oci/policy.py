"""The system call policy as libseccomp, which OCI runtimes use, must be told it. Pure.

Our policy is read in order: the first rule that fits a call decides. libseccomp knows no order: a rule without
conditions replaces all others of the same call, so that "TIOCSTI fails, every other ioctl is allowed" would allow
everything. Here such rules are rewritten so that no two of them fit the same call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

ALLOW = "SCMP_ACT_ALLOW"
WORD_BITS = 32
"""Every argument that the policy looks at is an int to the kernel, which ignores the rest."""

Rule = Mapping[str, Any]


def for_libseccomp(policy: Mapping[str, Any]) -> dict[str, Any]:
    """The same verdicts, save that a call refused by the last of several rules fails with the policy's default errno.

    Raises ValueError for a policy that cannot be told to libseccomp.
    """
    if policy["defaultAction"] == ALLOW:
        raise ValueError("the policy's default must be to refuse")
    rules: dict[str, list[Rule]] = {}
    for rule in policy["syscalls"]:
        for name in rule["names"]:
            rules.setdefault(name, []).append(rule)
    told: list[dict[str, Any]] = []
    for name, mine in rules.items():
        told += [{**rule, "names": [name]} for rule in _unordered(name, mine)]
    return {**policy, "syscalls": told}


def _unordered(name: str, rules: Sequence[Rule]) -> list[Rule]:
    *special, last = rules
    if last.get("args"):
        special, last = list(rules), {"action": None}
    if not special:
        return [last]
    if last["action"] != ALLOW and all(rule["action"] == ALLOW for rule in special):
        return special  # the default refuses the rest
    if last["action"] == ALLOW and all(rule["action"] != ALLOW for rule in special):
        index, values = _refused(name, special)
        return [*special, *({"args": [condition(index, *cube)], "action": ALLOW} for cube in all_but(values))]
    raise ValueError(f"the rules of {name} both allow and refuse before the last one")


def _refused(name: str, rules: Iterable[Rule]) -> tuple[int, set[int]]:
    """(argument index, values) that the rules refuse."""
    conditions = [argument for rule in rules for argument in rule["args"]]
    indices = {argument["index"] for argument in conditions}
    plain = all(len(rule["args"]) == 1 and rule["args"][0]["op"] == "SCMP_CMP_EQ" for rule in rules)
    if len(indices) != 1 or not plain:
        raise ValueError(f"the rules of {name} refuse more than single values of one argument")
    return indices.pop(), {argument["value"] for argument in conditions}


def condition(index: int, mask: int, value: int) -> dict[str, Any]:
    """Argument `index`, masked, equals `value`."""
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def all_but(values: set[int], bit: int = WORD_BITS - 1, mask: int = 0, prefix: int = 0) -> Iterator[tuple[int, int]]:
    """(mask, value) pairs of which exactly one fits every word that is not among `values`, and none those that are.

    At each bit, the half of the words that holds none of `values` is one pair; the other half is looked into.
    """
    if bit < 0:
        return
    for half in (0, 1 << bit):
        below = {value for value in values if value & 1 << bit == half}
        if below:
            yield from all_but(below, bit - 1, mask | 1 << bit, prefix | half)
        else:
            yield mask | 1 << bit, prefix | half
