"""Documents that are generated, or that name things in the code, keep up with it."""

from __future__ import annotations

import re
from pathlib import Path

from agent.core.attempt import explain
from agent.core.model import Outcome, State

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
