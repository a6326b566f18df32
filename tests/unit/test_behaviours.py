"""The table of what next hosts do: complete, up to date, and of behaviours that differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.behaviours import ROLES, SUBJECTS, outcomes, render_page
from tests.support.transcript import Dialogue, dialogues_of

PAGE = Path(__file__).parents[2] / "docs" / "behaviours.md"
DIALOGUES = [dialogue for role in ROLES for dialogue in dialogues_of(role)]
LEAST = 60  # with an outcome, and no two of them the same


def host_of(dialogue: Dialogue) -> bytes:
    """What the host does in it: its words, and when it goes."""
    parts = []
    for step in dialogue.steps:
        if step.kind == "S":
            parts.append(step.octets)
        elif step.kind == "@" and step.words[0] not in {"outcome", "mail"}:
            parts.append(" ".join(step.words).encode())
    return b"\0".join(parts)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render_page(), "python -m tests.support.behaviours > docs/behaviours.md"


def test_enough_behaviours_each_with_the_outcome_of_its_recipients() -> None:
    settled = {host_of(dialogue) for dialogue in DIALOGUES if outcomes(dialogue)}
    assert len(settled) >= LEAST


def test_every_file_of_dialogues_has_its_heading() -> None:
    assert {dialogue.file for dialogue in DIALOGUES} == set(SUBJECTS)


@pytest.mark.parametrize("role", ROLES)
def test_no_title_stands_for_two(role: str) -> None:
    titles = [str(dialogue) for dialogue in dialogues_of(role)]
    assert sorted(set(titles)) == sorted(titles)


@pytest.mark.parametrize("state", ["delivered", "deferred", "failed", "in doubt", "ready"])
def test_every_outcome_is_there(state: str) -> None:
    assert sum(state in came for dialogue in DIALOGUES for came in outcomes(dialogue)) >= 5
