"""docs/security.md points at tests; each is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.edges.engines.test_malicious import CASES
from tests.escape.suite import catalogue

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs/security.md", ROOT / "SECURITY.md"]
POINTERS = sorted(
    {found for page in PAGES for found in re.findall(r"`(tests/[\w/.]+?\.py(?:::\w+)?)`", page.read_text())}
)
CHAPTERS = ("A task", "A requester", "A coordinator", "The network", "Another user", "Another owner", "The owner")


@cache
def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("pointer", POINTERS)
def test_what_the_page_points_at_exists(pointer: str) -> None:
    path, _, name = pointer.partition("::")
    assert (ROOT / path).is_file()
    assert not name or name in names_in(ROOT / path)


def test_its_numbers_are_those_of_the_tests() -> None:
    page = PAGES[0].read_text()
    assert f"- {len(catalogue())} ways out " in page
    assert f"- {len(CASES)} ways to misbehave " in page


def test_the_page_points_at_something_in_every_chapter() -> None:
    chapters = re.split(r"^## ", PAGES[0].read_text(), flags=re.MULTILINE)
    for wanted in CHAPTERS:
        assert any(chapter.startswith(wanted) and "tests/" in chapter for chapter in chapters), wanted
