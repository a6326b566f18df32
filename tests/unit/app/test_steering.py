"""Suspensions reach the dispatcher once, and end when they are taken off the list."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from angarium._core.record import MessageState
from angarium.app.steering import Effect
from angarium.queue.suspension import Kind, Suspension
from tests.support.journal import Shard
from tests.support.steered import SteeredQueue

if TYPE_CHECKING:
    from pathlib import Path

UNTIL = datetime(2026, 6, 1, 12, tzinfo=UTC)


def suspension(kind: Kind, name: str, hours: int = 1) -> Suspension:
    until = UNTIL + timedelta(hours=hours)
    return Suspension(kind=kind, name=name, reason="why", by="ada", since=UNTIL, until=until)


def test_only_what_changes_is_told(tmp_path: Path) -> None:
    queue = SteeredQueue(tmp_path / "shard")
    domain, tenant = suspension("domain", "one.test"), suspension("tenant", "Shop")
    assert queue.steering.apply([domain, tenant]) == (2, 0)
    assert queue.dispatcher.told == [
        ("suspend", "domain", b"one.test", domain.until.timestamp(), "why"),
        ("suspend", "tenant", b"Shop", tenant.until.timestamp(), "why"),
    ]
    assert queue.steering.apply([tenant, domain]) == (0, 0)
    longer = suspension("domain", "one.test", 2)
    assert queue.steering.apply([longer]) == (1, 1)
    assert queue.dispatcher.told[2:] == [
        ("resume", "tenant", b"Shop"),
        ("suspend", "domain", b"one.test", longer.until.timestamp(), "why"),
    ]
    assert list(queue.steering.suspended.values()) == [longer]
    assert queue.steering.apply([]) == (0, 1)
    assert queue.events.named("resumption") == [
        {"kind": "tenant", "name": "Shop"},
        {"kind": "domain", "name": "one.test"},
    ]
    assert queue.events.named("suspension")[0] == {
        "kind": "domain",
        "name": "one.test",
        "by": "ada",
        "why": "why",
        "until": "2026-06-01T13:00:00Z",
    }


class Noting:
    """A ready queue that counts how often it was told to look at the suspensions."""

    def __init__(self) -> None:
        self.told = 0

    def apply_suspensions(self) -> None:
        self.told += 1


def test_ready_queues_look_at_suspensions_of_sites_and_sources(tmp_path: Path) -> None:
    queue = SteeredQueue(tmp_path / "shard")
    ready = Noting()
    queue.ready_queues.append(ready)
    queue.steering.apply([suspension("domain", "one.test"), suspension("tenant", "Shop")])
    assert ready.told == 0
    queue.steering.apply([suspension("site", "mx.one.test"), suspension("source", "192.0.2.1")])
    assert ready.told == 1
    queue.steering.apply([])
    assert ready.told == 2


def test_hold_and_release_are_in_the_journal(tmp_path: Path) -> None:
    queue = SteeredQueue(tmp_path / "shard")
    messages = [queue.add() for _ in range(3)]
    for message in messages[:2]:
        assert queue.steering.hold(message, "why", "ada") is Effect.DONE
    assert queue.steering.release(messages[0], "ada") is Effect.DONE
    queue.steering.flush()
    queue.shard.one_commit()
    recovered = Shard(queue.shard.copy(tmp_path / "copy"))
    states = [recovered.table.get(message.id).state for message in messages]  # type: ignore[union-attr]
    assert [state == MessageState.MESSAGE_HELD for state in states] == [False, True, False]


def test_what_is_under_way_is_neither_deleted_nor_bounced(tmp_path: Path) -> None:
    queue = SteeredQueue(tmp_path / "shard")
    message = queue.add(in_memory=True)
    message.state = MessageState.MESSAGE_READY
    assert queue.steering.delete(message, "why", "ada") is Effect.UNDER_WAY
    assert queue.steering.bounce(message, message.loaded, [0], "why") is Effect.UNDER_WAY
    assert queue.dispatcher.told == []
    assert queue.recorder.given_up == []
