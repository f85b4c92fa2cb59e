"""Documents that are generated, or that name things in the code, keep up with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from agent.core.attempt import explain
from agent.core.model import Outcome, State
from tests.cli.spelling import faults_of

ROOT = Path(__file__).parent.parent


def test_the_state_diagram_is_the_table() -> None:
    assert explain() in (ROOT / "docs/architecture.md").read_text()


def test_the_glossary_lists_every_state_and_outcome() -> None:
    glossary = (ROOT / "docs/glossary.md").read_text()
    assert " ".join(state.value for state in State) in glossary
    assert " ".join(outcome.value for outcome in Outcome) in glossary


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown_in(page: str) -> Iterator[str]:
    """Lines of shell in a page: those of its blocks, continued ones as one, and `gpu-agent …` in its prose."""
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for block in blocks:
        yield from block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    yield from (" ".join(code.split()) for code in re.findall(r"`((?:sudo )?(?:gpu-agent|\./run) [^`]+)`", prose))


def test_every_command_in_the_documents_is_one_that_the_command_line_takes() -> None:
    shown = [(page.name, line) for page in PAGES for line in shown_in(page.read_text())]
    assert sum("gpu-agent" in line for _, line in shown) > 60
    assert [(name, fault) for name, line in shown for fault in faults_of(line)] == []


def test_a_command_that_is_not_taken_would_be_found() -> None:
    block = "sudo gpu-agent statsu\ngpu-agent posp --stak 1   # x\ncat x | gpu-agent verify - \\\n  --jsn\n"
    page = f"```sh\n{block}```\n`gpu-agent config shw`"
    assert [fault for line in shown_in(page) for fault in faults_of(line)] == [
        "statsu: statsu is no verb",
        "posp --stak 1: No such option '--stak'. (Did you mean one of: '--cost', '--stake'?)",
        "verify - --jsn: No such option '--jsn'. Did you mean '--json'?",
        "config shw: config has no shw",
    ]
