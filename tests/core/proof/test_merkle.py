from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ProofError
from agent.core.proof.merkle import leaf_hash, path, root, root_and_paths, verify_path

COUNTS = st.integers(1, 70)


def leaves_of(count: int) -> list[bytes]:
    return [bytes([number]) * 3 for number in range(count)]


def hashes_of(count: int) -> list[bytes]:
    return [leaf_hash(leaf) for leaf in leaves_of(count)]


@given(COUNTS, st.data())
def test_every_leaf_is_shown_by_its_path(count: int, data: st.DataObject):
    index = data.draw(st.integers(0, count - 1))
    hashes = hashes_of(count)
    verify_path(root(hashes), leaves_of(count)[index], index, count, path(hashes, index))


@given(COUNTS, st.data())
def test_no_other_leaf_index_count_path_or_root_is_shown(count: int, data: st.DataObject):
    index = data.draw(st.integers(0, count - 1))
    hashes = hashes_of(count)
    top, leaf, siblings = root(hashes), leaves_of(count)[index], path(hashes, index)
    wrong = [
        (top, leaf + b"x", index, count, siblings),
        (top, leaf, index + 1, count, siblings),
        (top, leaf, index, count + 1, siblings),
        (top, leaf, index, count, (*siblings, bytes(32))),
        (top, leaf, index, count, siblings[:-1] if siblings else (bytes(32),)),
        (top[::-1], leaf, index, count, siblings),
        (top, leaf, -1, count, siblings),
    ]
    if siblings:
        wrong.append((top, leaf, index, count, (bytes(32), *siblings[1:])))
        wrong.append((top, leaf, index, count, (siblings[0][:-1], *siblings[1:])))
    for case in wrong:
        with pytest.raises(ProofError) as refused:
            verify_path(*case)
        assert refused.value.check == "path"


def test_an_inner_node_does_not_pass_for_a_leaf():
    hashes = hashes_of(4)
    inner = hashes[0] + hashes[1]
    with pytest.raises(ProofError):
        verify_path(root(hashes), inner, 0, 2, path(hashes, 0)[1:])


def test_the_root_binds_the_count_even_where_the_trees_are_alike():
    assert root(hashes_of(1)) != hashes_of(1)[0]
    assert len({root(hashes_of(count)) for count in range(40)}) == 40


def test_an_absurd_count_costs_nothing():
    with pytest.raises(ProofError):
        verify_path(bytes(32), b"", 0, 10**30, ())


def test_there_is_no_path_to_a_leaf_that_is_not_there():
    with pytest.raises(IndexError):
        path(hashes_of(3), 3)


@given(st.integers(0, 70))
def test_all_paths_at_once_are_those_of_each(count: int):
    hashes = hashes_of(count)
    top, paths = root_and_paths(hashes)
    assert top == root(hashes)
    assert [tuple(siblings) for siblings in paths] == [path(hashes, index) for index in range(count)]
