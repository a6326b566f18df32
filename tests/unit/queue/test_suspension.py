"""The file of suspensions: whole at any time, and strict about what it holds."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from angarium.queue import suspension
from angarium.queue.suspension import Suspension, SuspensionError, in_force, load, normal_name, store

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make(name: str, hours: int = 1) -> Suspension:
    return Suspension(kind="domain", name=name, reason="ü", by="ada", since=NOW, until=NOW + timedelta(hours=hours))


def test_what_was_stored_is_loaded(tmp_path: Path) -> None:
    assert load(tmp_path) == []
    wanted = [make("a.test"), make("b.test", 3)]
    store(tmp_path, wanted)
    assert load(tmp_path) == wanted
    assert os.stat(tmp_path / "suspensions.json").st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["suspensions.json"]
    assert in_force(wanted, NOW + timedelta(hours=2)) == wanted[1:]


def test_a_failure_leaves_the_old_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path, [make("a.test")])

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(suspension.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        store(tmp_path, [])
    assert load(tmp_path) == [make("a.test")]


@pytest.mark.parametrize("text", ["", "{", "{}", '[{"kind": "domain"}]', '[{"kind": "x"}]'])
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "suspensions.json").write_text(text)
    with pytest.raises(SuspensionError, match=r"suspensions\.json: "):
        load(tmp_path)


def test_there_is_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspension, "MOST", 1)
    with pytest.raises(SuspensionError, match="there can be 1"):
        store(tmp_path, [make("a.test"), make("b.test")])


def test_names_are_brought_to_the_form_in_which_they_are_compared() -> None:
    assert normal_name("domain", " GRÜN.Example ") == "xn--grn-ioa.example"
    assert normal_name("site", "MX.Example.net") == "mx.example.net"
    assert normal_name("source", "192.0.2.1") == "192.0.2.1"
    assert normal_name("tenant", "Shop") == "Shop"
    for kind, name in (("domain", ""), ("tenant", "a\x00b"), ("site", "x" * 256), ("domain", "a\u2028b")):
        with pytest.raises(SuspensionError):
            normal_name(kind, name)  # type: ignore[arg-type]
