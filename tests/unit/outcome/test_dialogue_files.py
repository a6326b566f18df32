"""The files of dialogues: bounds by size and age, records that are cut, disks that fail."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from angarium._core.dialogue import Dialogues, Keep
from angarium.outcome.dialogue_files import SMALLEST_PART_OCTETS, DialogueFiles, list_dialogues
from angarium.outcome.dialogue_reader import find

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NOW = 1795694400.0


def record(dialogues: Dialogues, number: int, octets: int = 1000) -> bytes:
    dialogues.opening(number, 0.5, 1, b"mx", b"host", b"C: EHLO x\nS: 421 " + b"x" * octets, b"no")
    return dialogues.take()


def made(folder: Path, worker: int = 0, workers: int = 1) -> tuple[Dialogues, DialogueFiles]:
    dialogues = Dialogues(Keep.KEEP_ALL)
    return dialogues, DialogueFiles(folder, worker, workers, dialogues.mark)


def test_the_size_is_kept_to_and_the_oldest_go(tmp_path: Path) -> None:
    dialogues, files = made(tmp_path)
    files.set_bounds(16 * SMALLEST_PART_OCTETS, 0.0)
    for number in range(1, 3000):
        files.write(record(dialogues, number), NOW + number)
    total = sum(file.size for file in list_dialogues(tmp_path))
    assert 14 * SMALLEST_PART_OCTETS < total < 18 * SMALLEST_PART_OCTETS
    assert find(tmp_path, 1) == []
    (last,) = find(tmp_path, 2999)
    assert last.lines[0].text == "EHLO x"
    assert files.lost == 0


def test_what_is_too_old_goes_and_so_does_that_of_workers_that_are_gone(tmp_path: Path) -> None:
    now = time.time()  # a file's own time is the machine's
    gone_dialogues, gone = made(tmp_path, worker=3, workers=4)
    gone.set_bounds(1 << 20, 100.0)
    gone.write(record(gone_dialogues, 7), now)
    gone.close()
    dialogues, files = made(tmp_path)
    files.set_bounds(1 << 20, 100.0)
    files.write(record(dialogues, 1), now)
    written = max(file.written for file in list_dialogues(tmp_path))
    files.tidy(written + 99)
    assert len(find(tmp_path, 7)) == len(find(tmp_path, 1)) == 1
    files.tidy(written + 101)
    assert list_dialogues(tmp_path) == []


def test_a_record_that_is_cut_short_is_passed_over(tmp_path: Path) -> None:
    dialogues, files = made(tmp_path)
    files.set_bounds(1 << 20, 0.0)
    whole, half = record(dialogues, 1), record(dialogues, 2)
    files.write(whole + half[:-10], NOW)
    files.close()
    assert len(find(tmp_path, 1)) == 1
    assert find(tmp_path, 2) == []
    (tmp_path / "dialogues-0-5").write_bytes(b"")
    (tmp_path / "dialogues-0-6").write_bytes(b"something else that is long enough")
    (tmp_path / "readme").write_bytes(b"")
    assert len(find(tmp_path, 1)) == 1


def test_what_is_lost_is_counted_by_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dialogues, files = made(tmp_path)
    files.set_bounds(1 << 20, 0.0)
    records = [record(dialogues, number) for number in range(1, 6)]
    files.write(records[0], NOW)
    write = os.write
    # room for two of four, and a part of the third
    monkeypatch.setattr(os, "write", lambda fd, octets: write(fd, octets[: len(records[1]) * 2 + 30]))
    files.write(b"".join(records[1:]), NOW)
    monkeypatch.undo()
    assert files.lost == 2
    files.write(record(dialogues, 9), NOW + 1)
    assert [len(find(tmp_path, number)) for number in (1, 2, 3, 4, 5, 9)] == [1, 1, 1, 0, 0, 1]
    files.close()
    for path in tmp_path.iterdir():
        path.unlink()
    tmp_path.rmdir()
    tmp_path.write_text("in the way")
    files.write(b"".join(records), NOW + 2)
    assert files.lost == 2 + 5
    files.tidy(NOW + 3)  # there is no folder to look into, and that is no reason to fail


def test_a_folder_that_cannot_be_written_costs_dialogues_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "trace").write_text("in the way")
    dialogues, files = made(tmp_path / "trace")
    files.set_bounds(1 << 20, 0.0)
    files.write(record(dialogues, 1), NOW)
    files.write(record(dialogues, 2), NOW)
    assert files.lost == 2
    assert caplog.text.count("cannot be kept") == 1
    (tmp_path / "trace").unlink()
    files.write(record(dialogues, 3), NOW)
    assert len(find(tmp_path / "trace", 3)) == 1
    assert (tmp_path / "trace").stat().st_mode & 0o077 == 0
    assert list_dialogues(tmp_path / "trace")[0].path.stat().st_mode & 0o077 == 0
    assert find(tmp_path / "nowhere", 3) == []
