"""A file of recipients that is read again when it changes, and never half of it."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

from angarium._core.counters import Slab, Slot
from angarium._core.event_log import EventLog
from angarium.policy.recipient_list import UNKNOWN, UNLISTED, WatchedList

if TYPE_CHECKING:
    from pathlib import Path


class Watched:
    """A list in a folder, with what it counts and tells."""

    def __init__(self, folder: Path, text: str | None = "ada@box.test\n", delimiter: str | None = None) -> None:
        self.path = folder / "recipients"
        self.log = folder / "events"
        self.counters = Slab.create(1).region(0)
        self.events = EventLog(str(self.log), self.counters)
        if text is not None:
            self.replace(text)
        self.list = WatchedList(str(self.path), delimiter, self.counters, self.events)

    def replace(self, text: str) -> None:
        """As it should be done: another file, renamed."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, self.path)

    async def refresh(self) -> bool:
        """Whether it was read again."""
        reading = self.list.refresh()
        if reading is not None:
            await reading
        return reading is not None

    def told(self) -> list[tuple[str, str]]:
        self.events.flush()
        return [(event["class"], event["text"]) for event in map(json.loads, self.log.read_text().splitlines())]


def test_who_is_listed_and_who_is_not(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    assert watched.list.verify(b"Ada@Box.Test") == b""
    assert watched.list.verify(b"ada+x@box.test") == UNKNOWN == b"550 5.1.1 There is no such recipient here\r\n"
    assert watched.counters.value(Slot.INGRESS_CHECKED_KNOWN) == 1
    assert watched.counters.value(Slot.INGRESS_CHECKED_UNKNOWN) == 1
    assert Watched(tmp_path, delimiter="+").list.verify(b"ada+x@box.test") == b""


def test_it_is_read_again_when_it_has_changed_and_only_then(tmp_path: Path) -> None:
    async def change() -> None:
        watched = Watched(tmp_path)
        assert not await watched.refresh()
        watched.replace("bob@box.test\ncyd@box.test\n")
        assert watched.list.verify(b"bob@box.test") == UNKNOWN
        assert await watched.refresh()
        assert watched.list.verify(b"bob@box.test") == b""
        assert watched.list.verify(b"ada@box.test") == UNKNOWN
        assert not await watched.refresh()
        assert watched.told() == [("read", "1 recipients"), ("read", "2 recipients")]
        assert watched.counters.value(Slot.INGRESS_LISTS_READ) == 2

    asyncio.run(change())


def test_a_file_that_is_no_good_leaves_the_list_as_it_was_and_is_told_once(tmp_path: Path) -> None:
    async def spoil() -> None:
        watched = Watched(tmp_path)
        watched.replace("bob@box.test\nnonsense\n")
        assert await watched.refresh()
        assert not await watched.refresh()
        assert watched.list.verify(b"ada@box.test") == b""
        assert watched.list.verify(b"bob@box.test") == UNKNOWN
        watched.path.unlink()
        assert await watched.refresh()
        assert not await watched.refresh()
        assert watched.list.verify(b"ada@box.test") == b""
        watched.replace("bob@box.test\n")
        assert await watched.refresh()
        assert watched.list.verify(b"bob@box.test") == b""
        kinds = [kind for kind, _ in watched.told()]
        assert kinds == ["read", "failed", "failed", "read"]
        assert "line 2" in watched.told()[1][1]
        assert watched.counters.value(Slot.INGRESS_LISTS_FAILED) == 2

    asyncio.run(spoil())


def test_without_any_list_nobody_can_say(tmp_path: Path) -> None:
    async def come() -> None:
        watched = Watched(tmp_path, None)
        assert watched.list.verify(b"ada@box.test") == UNLISTED
        assert watched.counters.value(Slot.INGRESS_CHECKED_DEFERRED) == 1
        assert len(watched.list) == 0
        assert not await watched.refresh()
        watched.replace("ada@box.test\n")
        assert await watched.refresh()
        assert watched.list.verify(b"ada@box.test") == b""
        assert len(watched.list) == 1

    asyncio.run(come())


def test_one_reading_at_a_time(tmp_path: Path) -> None:
    async def twice() -> None:
        watched = Watched(tmp_path)
        watched.replace("bob@box.test\n")
        first = watched.list.refresh()
        assert first is not None
        assert watched.list.refresh() is first
        await first
        assert watched.counters.value(Slot.INGRESS_LISTS_READ) == 2

    asyncio.run(twice())
