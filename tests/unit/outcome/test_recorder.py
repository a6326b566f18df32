"""Who is told of what, and that no notification is lost: the recorder and the bouncer on a real journal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from angarium._core.command import Notify
from angarium._core.counters import Slot
from angarium._core.record import MessageState
from angarium.app import bouncer as bouncer_module
from angarium.mail.status import EnhancedStatus, RecipientState
from tests.support.outcome import GREYLISTED, HOST, LOST, NO_SUCH_USER, RCPT, TAKEN, Desk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEVER, SUCCESS = Notify.NOTIFY_NEVER, Notify.NOTIFY_SUCCESS
FAILURE, DELAY = Notify.NOTIFY_FAILURE, Notify.NOTIFY_DELAY
BOB = b"bob@example.net"
HOUR = 3600.0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "shard")
    yield desk
    desk.close()


# ---------------------------------------------------------------- NOTIFY and what happens

TABLE = {
    #                  failed  expired  delayed  relayed  by DSN  by hand
    "": (0, "failed", "failed", "delayed", "", "", ""),
    "NEVER": (NEVER, "", "", "", "", "", ""),
    "SUCCESS": (SUCCESS, "", "", "", "relayed", "", "delivered"),
    "FAILURE": (FAILURE, "failed", "failed", "", "", "", ""),
    "DELAY": (DELAY, "", "", "delayed", "", "", ""),
    "SUCCESS,FAILURE": (SUCCESS | FAILURE, "failed", "failed", "", "relayed", "", "delivered"),
    "SUCCESS,DELAY": (SUCCESS | DELAY, "", "", "delayed", "relayed", "", "delivered"),
    "FAILURE,DELAY": (FAILURE | DELAY, "failed", "failed", "delayed", "", "", ""),
    "all": (SUCCESS | FAILURE | DELAY, "failed", "failed", "delayed", "relayed", "", "delivered"),
}


def expire(desk: Desk) -> None:
    desk.clock.advance(desk.retry.expire_s)


OUTCOMES = {
    "failed": (1, lambda desk, message: desk.answer(message, NO_SUCH_USER)),
    "expired": (2, lambda desk, message: (expire(desk), desk.answer(message, GREYLISTED))),
    "delayed": (3, lambda desk, message: (desk.answer(message, GREYLISTED), desk.warn(message))),
    "taken by a host without DSN": (4, lambda desk, message: desk.answer(message, TAKEN)),
    "taken by a host with DSN": (5, lambda desk, message: desk.answer(message, TAKEN, dsn=True)),
    "delivered by hand": (6, lambda desk, message: desk.answer(message, TAKEN, host=None)),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("notify", TABLE)
def test_notify_decides_who_is_told(desk: Desk, notify: str, outcome: str) -> None:
    bits, *actions = TABLE[notify]
    column, happen = OUTCOMES[outcome]
    message = desk.accept((BOB, bits))
    happen(desk, message)
    desk.commit()
    action = actions[column - 1]
    assert desk.told() == ([("bob@example.net", action)] if action else [])
    over = outcome != "delayed"
    assert (message.state == MessageState.MESSAGE_GONE) is over
    assert (desk.dispatcher.table.get(message.id) is None) is over


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_null_reverse_path_is_told_nothing(desk: Desk, outcome: str) -> None:
    """Never a notification about a notification; a failure is a double bounce."""
    message = desk.accept((BOB, SUCCESS | FAILURE | DELAY), reverse_path=b"")
    OUTCOMES[outcome][1](desk, message)
    desk.commit()
    assert desk.notifications() == []
    double = 1 if outcome in ("failed", "expired") else 0
    assert desk.count(Slot.OUTCOME_DOUBLE_BOUNCES) == double
    assert [event["id"] for event in desk.logged("double_bounce")] == [message.queue_id] * double


def test_a_notification_that_fails_is_a_double_bounce(desk: Desk) -> None:
    first = desk.accept((BOB, 0))
    desk.answer(first, NO_SUCH_USER)
    desk.commit()
    (notification,) = list(desk.dispatcher.table)
    assert desk.delivery(notification).mail_buffer().recipient(0) == (b"ada@example.org", NEVER, b"")
    desk.ways[notification.queue_id] = []
    desk.dispatcher.send(notification, desk.queue, [0])
    desk.answer(notification, NO_SUCH_USER)
    assert desk.count(Slot.OUTCOME_DOUBLE_BOUNCES) == 1
    assert desk.count(Slot.OUTCOME_NOTIFICATIONS_FAILED) == 1


def test_one_notification_for_all_recipients_of_a_transaction(desk: Desk) -> None:
    message = desk.accept((BOB, 0), (b"eve@example.net", SUCCESS), (b"ann@example.net", 0), (b"tim@example.net", NEVER))
    desk.answer(message, NO_SUCH_USER, TAKEN, TAKEN, NO_SUCH_USER)
    desk.commit()
    assert len(desk.notifications()) == 1
    assert desk.told() == [("bob@example.net", "failed"), ("eve@example.net", "relayed")]
    assert message.state == MessageState.MESSAGE_GONE


def test_many_recipients_make_several_notifications(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bouncer_module, "MOST_RECIPIENTS", 2)
    message = desk.accept(*((b"r%d@example.net" % n, 0) for n in range(5)))
    desk.answer(message, *[NO_SUCH_USER] * 5)
    desk.commit()
    assert len(desk.notifications()) == 3
    assert sorted(desk.told()) == [(f"r{n}@example.net", "failed") for n in range(5)]
    assert message.state == MessageState.MESSAGE_GONE


def test_what_is_told_of_a_failure(desk: Desk) -> None:
    message = desk.accept((BOB, 0), envid=b"QQ314")
    desk.answer(message, NO_SUCH_USER)
    desk.commit()
    (dsn,) = desk.notifications()
    groups = list(dsn.iter_parts())[1].get_payload()  # type: ignore[attr-defined]
    assert groups[0]["Original-Envelope-Id"] == "QQ314"
    assert groups[1]["Remote-MTA"] == "dns; mx1.example.net"
    assert groups[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user"
    assert dsn["Received"].startswith("by relay.example.org id "), "a trace field: loops are counted out"
    assert message.queue_id in dsn["Received"]
    (event,) = desk.logged("notification")
    assert (event["about"], event["class"]) == (message.queue_id, "failed")


def test_what_is_told_of_expiry_is_the_last_reply(desk: Desk) -> None:
    message = desk.accept((BOB, 0))
    expire(desk)
    desk.answer(message, GREYLISTED)
    desk.commit()
    (dsn,) = desk.notifications()
    group = list(dsn.iter_parts())[1].get_payload()[1]  # type: ignore[attr-defined, union-attr, index]
    assert (group["Action"], group["Status"]) == ("failed", "4.4.7")
    assert group["Diagnostic-Code"] == "smtp; 451 4.7.1 greylisted"
    assert group["Remote-MTA"] == "dns; mx1.example.net"
    assert dsn["Subject"] == "Your mail could not be delivered in time"
    assert desk.count(Slot.DELIVERY_EXPIRED_RECIPIENTS) == 1
    assert desk.logged("expiry")[0]["reply"]["code"] == 451


# ---------------------------------------------------------------- nothing is lost


def test_a_recipient_is_final_only_when_the_notification_is_on_disk(desk: Desk, tmp_path: Path) -> None:
    message = desk.accept((BOB, 0))
    desk.hold_commits()
    desk.answer(message, NO_SUCH_USER)
    assert message.recipient_state(0) == RecipientState.QUEUED
    assert (message.outstanding, desk.bouncer.committing) == (1, 1)
    after = desk.after_crash(tmp_path / "early")
    assert [found.queue_id for found in after.dispatcher.table] == [message.queue_id]
    assert next(iter(after.dispatcher.table)).unfinished() == [0]
    after.close()
    desk.commit()
    assert (message.state, desk.bouncer.committing) == (MessageState.MESSAGE_GONE, 0)
    desk.flush()
    after = desk.after_crash(tmp_path / "late")
    assert after.dispatcher.table.get(message.id) is None
    assert after.told() == [("bob@example.net", "failed")]
    after.close()


def test_what_is_done_already_is_on_disk_before_the_sender_is_told(desk: Desk, tmp_path: Path) -> None:
    """A crash must not send again to those who have it, nor forget the one who failed."""
    message = desk.accept((BOB, 0), (b"ann@example.net", 0))
    desk.intake.broken = True
    desk.answer(message, NO_SUCH_USER, TAKEN)
    desk.flush()
    after = desk.after_crash(tmp_path / "after")
    found = after.dispatcher.table.get(message.id)
    assert found is not None
    assert found.unfinished() == [0]
    after.close()


def test_a_notification_waits_until_the_journal_takes_it(desk: Desk) -> None:
    message = desk.accept((BOB, 0))
    desk.intake.broken = True
    desk.answer(message, NO_SUCH_USER)
    for _ in range(3):
        assert desk.bouncer.waiting == desk.count(Slot.OUTCOME_NOTIFICATIONS_WAITING) == 1
        assert message.state == MessageState.MESSAGE_READY
        desk.later.pop()()
    desk.intake.broken = False
    desk.later.pop()()
    desk.commit()
    assert desk.told() == [("bob@example.net", "failed")]
    assert desk.bouncer.waiting == desk.count(Slot.OUTCOME_NOTIFICATIONS_WAITING) == 0
    assert message.state == MessageState.MESSAGE_GONE
    assert desk.later == []


def test_a_notification_that_could_not_be_written_is_written_again(desk: Desk) -> None:
    message = desk.accept((BOB, 0))
    desk.hold_commits()
    desk.answer(message, NO_SUCH_USER)
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), desk.journal.segments[-1].fileno)
    desk.commit()
    assert desk.journal.failed
    assert (desk.bouncer.waiting, desk.bouncer.committing) == (1, 0)
    assert message.recipient_state(0) == RecipientState.QUEUED
    desk.later.pop()()
    assert desk.bouncer.waiting == 1, "no journal takes records"
    assert desk.journal.heal()
    desk.later.pop()()
    desk.commit()
    assert desk.told() == [("bob@example.net", "failed")]
    assert message.state == MessageState.MESSAGE_GONE


def test_where_no_more_can_wait_a_failure_is_put_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bouncer_module, "MOST_WAITING", 1)
    first, second = desk.accept((BOB, 0)), desk.accept((BOB, 0))
    desk.intake.broken = True
    desk.answer(first, NO_SUCH_USER)
    desk.answer(second, NO_SUCH_USER)
    assert second.recipient_state(0) == RecipientState.DEFERRED
    assert second.state == MessageState.MESSAGE_SCHEDULED
    assert desk.count(Slot.OUTCOME_NOTIFICATIONS_PUT_OFF) == 1
    desk.intake.broken = False
    desk.later.pop()()
    desk.commit()
    assert desk.told() == [("bob@example.net", "failed")]
    desk.again(second)
    desk.answer(second, NO_SUCH_USER)
    desk.commit()
    assert desk.told() == [("bob@example.net", "failed")] * 2


def test_the_octets_that_wait_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bouncer_module, "MOST_WAITING_OCTETS", 100)
    message = desk.accept((BOB, 0))
    desk.intake.broken = True
    desk.answer(message, NO_SUCH_USER)
    assert (desk.bouncer.waiting, message.state) == (0, MessageState.MESSAGE_SCHEDULED)


def test_where_no_more_can_wait_a_success_is_not_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting it off would send the message again."""
    monkeypatch.setattr(bouncer_module, "MOST_WAITING", 0)
    message = desk.accept((BOB, SUCCESS))
    desk.intake.broken = True
    desk.answer(message, TAKEN)
    assert message.state == MessageState.MESSAGE_GONE
    assert desk.count(Slot.OUTCOME_NOTIFICATIONS_DROPPED) == 1
    assert desk.count(Slot.DELIVERY_DELIVERED_RECIPIENTS) == 1


def test_where_no_more_can_wait_expiry_comes_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bouncer_module, "MOST_WAITING", 0)
    message = desk.accept((BOB, 0))
    desk.intake.broken = True
    expire(desk)
    desk.answer(message, GREYLISTED)
    assert message.state == MessageState.MESSAGE_SCHEDULED
    assert message.recipient_state(0) == RecipientState.DEFERRED
    assert desk.count(Slot.QUEUE_EXPIRED) == 0
    desk.intake.broken = False
    desk.take_out(message)
    desk.recorder.expire(message)
    desk.commit()
    assert desk.told() == [("bob@example.net", "failed")]


def test_a_success_that_is_not_yet_told_is_in_doubt_after_a_crash(desk: Desk, tmp_path: Path) -> None:
    message = desk.accept((BOB, SUCCESS), (b"ann@example.net", 0))
    desk.dispatcher.mark_in_flight(message)
    desk.intake.broken = True
    desk.answer(message, TAKEN, TAKEN)
    desk.flush()
    after = desk.after_crash(tmp_path / "after")
    assert after.report.in_doubt == [message.id]
    found = after.dispatcher.table.get(message.id)
    assert found is not None
    assert found.unfinished() == [0], "the other one has it, and that is known"
    after.close()


def test_a_message_that_is_deleted_while_its_notification_waits(desk: Desk) -> None:
    message = desk.accept((BOB, 0))
    desk.intake.broken = True
    desk.answer(message, NO_SUCH_USER)
    desk.dispatcher.drop(message)
    desk.intake.broken = False
    desk.later.pop()()
    desk.commit()
    assert message.state == MessageState.MESSAGE_GONE
    assert desk.count(Slot.DELIVERY_FAILED_RECIPIENTS) == 0


def test_a_notification_is_no_mail_of_outside(desk: Desk) -> None:
    """It is larger than the mail it is about, and nothing asks for its size."""
    message = desk.accept((b"b" * 60 + b"@example.net", 0))
    desk.answer(message, (550, None, b"x" * 900, TAKEN[3]))
    desk.commit()
    (notification,) = list(desk.dispatcher.table)
    assert notification.record_octets > 2 * message.record_octets
    assert notification.durability == 0


# ---------------------------------------------------------------- delays


def test_a_warning_is_sent_once_and_says_when_the_message_is_given_up(desk: Desk) -> None:
    message = desk.accept((BOB, 0))
    desk.clock.advance(4 * HOUR)
    for _ in range(3):
        desk.answer(message, GREYLISTED)
        desk.warn(message)
        desk.commit()
        desk.again(message)
    assert desk.told() == [("bob@example.net", "delayed")]
    (dsn,) = desk.notifications()
    group = list(dsn.iter_parts())[1].get_payload()[1]  # type: ignore[attr-defined, union-attr, index]
    assert group["Will-Retry-Until"] == "Sat, 16 Jan 2027 08:00:00 +0000", "a day after it was received"
    assert group["Diagnostic-Code"] == "smtp; 451 4.7.1 greylisted"
    assert group["Remote-MTA"] == "dns; mx1.example.net"
    assert group["Last-Attempt-Date"] == "Fri, 15 Jan 2027 12:00:00 +0000"
    assert desk.count(Slot.OUTCOME_NOTIFICATIONS_DELAYED) == 1


def test_a_lost_connection_is_told_in_the_relay_s_own_words(desk: Desk) -> None:
    message = desk.accept((BOB, 0))
    desk.answer(message, (0, None, HOST + b": the host closed the connection", RCPT))
    desk.warn(message)
    desk.commit()
    (dsn,) = desk.notifications()
    group = list(dsn.iter_parts())[1].get_payload()[1]  # type: ignore[attr-defined, union-attr, index]
    assert group["Diagnostic-Code"] == f"X-Angarium; {HOST.decode()}: the host closed the connection"
    assert "Remote-MTA" not in group


def test_the_warning_is_remembered_across_a_restart(desk: Desk, tmp_path: Path) -> None:
    message = desk.accept((BOB, 0))
    desk.answer(message, GREYLISTED)
    desk.warn(message, b"the host is down")
    desk.commit()
    desk.flush()
    after = desk.after_crash(tmp_path / "after")
    found = after.dispatcher.table.get(message.id)
    assert found is not None
    assert found.warned
    before = len(after.notifications())
    after.load(found)
    after.recorder.warn(found)
    assert (len(after.notifications()), before, after.bouncer.committing) == (1, 1, 0)
    after.close()


def test_a_warning_before_its_notification_is_on_disk_is_forgotten_by_a_crash(desk: Desk, tmp_path: Path) -> None:
    message = desk.accept((BOB, 0))
    desk.answer(message, GREYLISTED)
    desk.flush()
    desk.hold_commits()
    desk.warn(message)
    after = desk.after_crash(tmp_path / "after")
    found = after.dispatcher.table.get(message.id)
    assert found is not None
    assert not found.warned
    after.load(found)
    after.recorder.warn(found)
    after.commit()
    assert after.told() == [("bob@example.net", "delayed")]
    after.close()


def test_a_warning_after_a_restart_tells_the_last_reply(desk: Desk, tmp_path: Path) -> None:
    message = desk.accept((BOB, 0), (b"tim@example.net", FAILURE))
    desk.answer(message, GREYLISTED, GREYLISTED)
    desk.flush()
    after = desk.after_crash(tmp_path / "after")
    found = after.dispatcher.table.get(message.id)
    assert found is not None
    assert found.buffer is None
    after.load(found)
    after.recorder.warn(found, b"no host of example.net can be reached")
    after.commit()
    assert after.told() == [("bob@example.net", "delayed")], "the other one did not ask"
    group = list(after.notifications()[0].iter_parts())[1].get_payload()[1]  # type: ignore[attr-defined, union-attr, index]
    assert group["Diagnostic-Code"] == "smtp; 451 4.7.1 greylisted"
    assert group["Remote-MTA"] == "dns; mx1.example.net"
    after.close()


def test_a_warning_without_any_attempt_says_what_the_message_waits_for(desk: Desk) -> None:
    message = desk.accept((BOB, 0))
    desk.recorder.warn(message, b"no host of example.net can be reached")
    desk.commit()
    (dsn,) = desk.notifications()
    group = list(dsn.iter_parts())[1].get_payload()[1]  # type: ignore[attr-defined, union-attr, index]
    assert group["Diagnostic-Code"] == "X-Angarium; no host of example.net can be reached"
    assert group["Status"] == "4.0.0"
    assert "Last-Attempt-Date" not in group


@pytest.mark.parametrize("notify", [NEVER, FAILURE, SUCCESS])
def test_who_wants_no_warning_costs_no_record(desk: Desk, notify: int) -> None:
    message = desk.accept((BOB, notify))
    desk.answer(message, GREYLISTED)
    desk.flush()
    written = desk.journal.segments[-1].used
    desk.warn(message)
    assert message.warned
    assert desk.journal.segments[-1].used == written


def test_a_warning_for_which_there_is_no_room_is_asked_for_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bouncer_module, "MOST_WAITING", 0)
    message = desk.accept((BOB, 0))
    desk.answer(message, GREYLISTED)
    desk.intake.broken = True
    desk.warn(message)
    assert not message.warned
    desk.intake.broken = False
    desk.warn(message)
    desk.commit()
    assert desk.told() == [("bob@example.net", "delayed")]


def test_expiry_without_any_attempt_says_what_the_message_waited_for(desk: Desk) -> None:
    message = desk.accept((BOB, 0))
    desk.ways.clear()
    expire(desk)
    desk.recorder.expire(message, b"no host of example.net can be reached")
    desk.commit()
    (dsn,) = desk.notifications()
    group = list(dsn.iter_parts())[1].get_payload()[1]  # type: ignore[attr-defined, union-attr, index]
    assert group["Diagnostic-Code"] == "X-Angarium; expired; no host of example.net can be reached"
    assert message.state == MessageState.MESSAGE_GONE


# ---------------------------------------------------------------- an operator ends it

BY_HAND = EnhancedStatus(5, 7, 1)


def test_an_operator_gives_up_one_recipient_or_all(desk: Desk, tmp_path: Path) -> None:
    message = desk.accept((BOB, 0), (b"ann@example.net", 0))
    desk.answer(message, GREYLISTED, GREYLISTED)
    at = message.next_attempt
    desk.load(message)
    desk.recorder.give_up(message, [0], BY_HAND, b"by the operator: a mistake")
    assert message.state == MessageState.MESSAGE_READY, "nobody takes it up meanwhile"
    assert message.unfinished() == [0, 1]
    desk.commit()
    assert desk.told() == [("bob@example.net", "failed")]
    assert (message.unfinished(), message.state, message.next_attempt) == ([1], MessageState.MESSAGE_SCHEDULED, at)
    assert desk.logged("bounce")[0]["reply"]["text"] == "by the operator: a mistake"
    desk.flush()
    after = desk.after_crash(tmp_path / "after")
    found = after.dispatcher.table.get(message.id)
    assert found is not None
    assert found.unfinished() == [1]
    after.close()
    desk.load(message)
    desk.recorder.give_up(message, [1], BY_HAND, b"by the operator")
    desk.commit()
    assert message.state == MessageState.MESSAGE_GONE
    assert len(desk.notifications()) == 2


def test_what_is_held_is_held_when_some_are_given_up(desk: Desk) -> None:
    message = desk.accept((BOB, 0), (b"ann@example.net", 0))
    desk.answer(message, GREYLISTED, GREYLISTED)
    assert desk.dispatcher.hold(message)
    desk.load(message)
    desk.recorder.give_up(message, [0], BY_HAND, b"by the operator")
    desk.commit()
    assert (message.state, message.unfinished()) == (MessageState.MESSAGE_HELD, [1])


def test_giving_up_without_room_for_the_notification_changes_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bouncer_module, "MOST_WAITING", 0)
    message = desk.accept((BOB, 0))
    desk.answer(message, GREYLISTED)
    at = message.next_attempt
    desk.intake.broken = True
    desk.load(message)
    desk.recorder.give_up(message, [0], BY_HAND, b"by the operator")
    assert (message.unfinished(), message.state, message.next_attempt) == ([0], MessageState.MESSAGE_SCHEDULED, at)


# ---------------------------------------------------------------- what it was before


def test_states_and_counters_of_a_mixed_transaction(desk: Desk) -> None:
    message = desk.accept(*((b"r%d@example.net" % n, 0) for n in range(4)))
    desk.answer(message, TAKEN, GREYLISTED, NO_SUCH_USER, LOST)
    desk.commit()
    states = [message.recipient_state(index) for index in range(4)]
    assert states == [
        RecipientState.DELIVERED,
        RecipientState.DEFERRED,
        RecipientState.FAILED,
        RecipientState.IN_DOUBT,
    ]
    assert message.in_doubt
    assert desk.count(Slot.DELIVERY_DUPLICATES_POSSIBLE) == 1
    assert desk.count(Slot.DELIVERY_ATTEMPTS) == 1
    assert [len(desk.logged(name)) for name in ("delivery", "deferral", "bounce", "in_doubt")] == [1, 1, 1, 1]
    assert (message.attempts, message.next_attempt) == (1, desk.clock.now() + 60)


def test_too_many_recipients_go_at_once(desk: Desk) -> None:
    message = desk.accept((BOB, 0), (b"ann@example.net", 0))
    desk.answer(message, TAKEN, (452, (4, 5, 3), b"too many", GREYLISTED[3]))
    assert (message.attempts, message.next_attempt, message.soon) == (0, desk.clock.now(), False)
