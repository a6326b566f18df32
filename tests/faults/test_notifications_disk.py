"""A full disk and mail that has failed: its notifications must find room, or the queue never becomes smaller."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

import pytest

from angarium._core.counters import Slot
from angarium._core.journal import JournalFull
from angarium._core.record import MessageState
from tests.support.outcome import DATA, NO_SUCH_USER, TAKEN, Desk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from angarium._core.record import Message

SEGMENT = 64 << 10
LARGE = DATA + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 120


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    desk = Desk(folder / "shard", segment_octets=SEGMENT)
    yield desk
    desk.close()
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(desk: Desk) -> list[Message]:
    """Accept mail until the disk is full."""
    messages = []
    with contextlib.suppress(JournalFull):
        for _ in range(1000):
            messages.append(desk.accept((b"bob@example.net", 0), data=LARGE))
    assert not desk.intake.accepting
    return messages


def test_a_queue_of_failed_mail_on_a_full_disk_becomes_smaller(desk: Desk) -> None:
    messages = fill(desk)
    assert len(messages) > 10
    for message in messages:
        desk.answer(message, NO_SUCH_USER)
        desk.commit()
    # all of them are told, or the rest waits until those that were told have been sent
    for _ in range(len(messages)):
        if not desk.bouncer.waiting:
            break
        for notification in [known for known in desk.dispatcher.table if known not in messages]:
            if notification.queue_id in desk.ways:
                desk.answer(notification, TAKEN)
        desk.later.pop()()
        desk.commit()
    assert all(message.state == MessageState.MESSAGE_GONE for message in messages)
    assert desk.count(Slot.OUTCOME_NOTIFICATIONS_FAILED) == len(messages)
    assert desk.bouncer.waiting == 0
    for notification in list(desk.dispatcher.table):
        desk.answer(notification, TAKEN)
    desk.accept((b"bob@example.net", 0), data=LARGE)


def test_on_a_full_disk_the_header_alone_comes_back(desk: Desk) -> None:
    message = fill(desk)[0]
    desk.answer(message, NO_SUCH_USER)
    desk.commit()
    (dsn,) = desk.notifications()
    assert list(dsn.iter_parts())[2].get_content_type() == "text/rfc822-headers"


def test_notifications_leave_room_for_the_ends_of_messages(desk: Desk) -> None:
    messages = fill(desk)
    oldest = messages[0]  # under way, so that no segment is free again
    for message in messages[1:]:
        for _ in range(3):  # three warnings' worth of notifications for each
            message.warned = False
            desk.recorder.warn(message)
            desk.commit()
    assert desk.bouncer.waiting > 0
    assert desk.journal.segments[-1].used <= SEGMENT * 3 // 4
    for message in messages:
        desk.answer(message, TAKEN)
    assert all(message.state == MessageState.MESSAGE_GONE for message in messages)
    assert desk.dispatcher.unrecorded == []
    assert oldest.state == MessageState.MESSAGE_GONE
