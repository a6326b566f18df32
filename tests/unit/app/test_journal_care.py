"""A disk that does not answer is noticed by those who wait for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from angarium.app.journal_care import DISK_SILENT_S, DiskWatch

if TYPE_CHECKING:
    import pytest


def journals(*waiting: int) -> Any:
    return cast("Any", [SimpleNamespace(waiting=count) for count in waiting])


def test_a_disk_is_silent_while_somebody_waits_and_nothing_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    commits = 7
    both = journals(0, 3)
    watch = DiskWatch(both, lambda: commits)
    watch.look(100.0)
    watch.look(100.4)
    assert not watch.is_slow
    watch.look(100.0 + DISK_SILENT_S)
    assert watch.is_slow
    assert not watch.is_silent
    watch.look(100.1 + DISK_SILENT_S)
    assert watch.is_silent
    watch.look(200.0)
    assert caplog.text.count("the disk has not answered") == 1
    commits += 1
    watch.look(200.1)
    assert not watch.is_silent
    assert "the disk answers again, after 100 s" in caplog.text


def test_a_disk_that_is_slow_or_idle_is_not_silent() -> None:
    commits = 0
    one = journals(1)
    watch = DiskWatch(one, lambda: commits)
    for second in range(60):  # each commit takes seconds, and comes back
        commits += second % 4 == 0
        watch.look(float(second))
        assert not watch.is_silent
    one[0].waiting = 0
    for second in range(60, 600):  # nobody waits
        watch.look(float(second))
        assert not watch.is_silent
    one[0].waiting = 1
    watch.look(600.0)
    assert not watch.is_silent  # it has just begun
