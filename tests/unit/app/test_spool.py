"""The spool before anything runs on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium.app.spool import end_half_line

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("found", "left"),
    [(b"", b""), (b'{"a":1}\n', b'{"a":1}\n'), (b'{"a":1}\n{"time', b'{"a":1}\n{"time\n'), (b"{", b"{\n")],
)
def test_half_a_line_of_a_killed_process_is_ended(tmp_path: Path, found: bytes, left: bytes) -> None:
    events = tmp_path / "events.jsonl"
    events.write_bytes(found)
    end_half_line(events)
    assert events.read_bytes() == left


def test_an_event_log_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    end_half_line(tmp_path / "events.jsonl")
    assert not (tmp_path / "events.jsonl").exists()
