"""A stream: at least once and in order, over failures and kills; what cannot be sent is set aside, counted and said."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from angarium.app.stream.sink import Item, SinkFailure
from angarium.app.stream.state import StreamState, load, save
from angarium.outcome.event_files import list_files
from angarium.outcome.event_keeping import compress, rotate
from angarium.outcome.event_reader import Position
from tests.support.stream import FakeSink, Rig, event_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOON = 1795694400.0


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def lines(*numbers: int) -> list[bytes]:
    return [event_line(number) for number in numbers]


def unavailable(numbers: list[int]) -> None:
    raise SinkFailure("HTTP status 503")


async def test_events_arrive_once_and_in_order_over_rotations(rig: Rig) -> None:
    rig.write(*lines(*range(10)))
    async with rig.running(batch_events=4):
        await rig.until(lambda: len(rig.sink.taken) == 10)
        rig.write(*lines(*range(10, 15)))
        rotated = rotate(rig.path, NOON)
        rig.write(*lines(*range(15, 20)))
        compress(rotated, "zstd")
        await rig.until(lambda: len(rig.sink.taken) == 20)
    assert rig.sink.taken == list(range(20))
    assert max(map(len, rig.sink.calls)) == 4
    assert len(set(rig.sink.keys)) == 20


async def test_a_stream_that_is_new_begins_with_what_comes(rig: Rig) -> None:
    rig.write(*lines(0, 1))
    async with rig.running(start="now"):
        rig.write(*lines(2))
        await rig.until(lambda: rig.sink.taken)
    assert rig.sink.taken == [2]


async def test_what_is_not_taken_is_sent_again_until_it_is(rig: Rig) -> None:
    rig.write(*lines(0, 1, 2))
    rig.sink.answer = unavailable
    async with rig.running():
        await rig.until(lambda: len(rig.sink.calls) >= 4)
        assert rig.runner.status().state == "failing"
        assert rig.runner.status().error == "HTTP status 503"
        rig.sink.answer = lambda numbers: None
        await rig.until(lambda: rig.sink.taken)
        await rig.until(lambda: rig.runner.status().state != "failing")
        failures = rig.runner.status().failures
    assert rig.sink.taken == [0, 1, 2]
    assert failures >= 4
    assert [(event, fields["class"]) for event, fields in rig.events] == [("stream", "failing"), ("stream", "working")]
    assert rig.events[1][1]["failures"] == failures


async def test_a_restart_goes_on_behind_what_was_taken(rig: Rig) -> None:
    rig.write(*lines(0, 1, 2))
    async with rig.running():
        await rig.until(lambda: rig.runner.state.position.offset)
    rig.write(*lines(3, 4))
    compress(rotate(rig.path, NOON), "gzip")
    rig.write(*lines(5))
    async with rig.running():
        await rig.until(lambda: rig.runner.status().sent == 6)  # totals are of the stream's life
    assert rig.sink.taken == list(range(6))


class RememberingSink(FakeSink):
    """Is shown what lies before the position."""

    def __init__(self, look_back_octets: int) -> None:
        super().__init__()
        self.look_back_octets = look_back_octets
        self.recalled: list[int] = []
        self.recalled_keys: list[str] = []

    def recall(self, items: Sequence[Item]) -> None:
        assert not self.calls
        self.recalled += [json.loads(item.line)["number"] for item in items]
        self.recalled_keys += [item.key for item in items]


async def test_a_sink_that_remembers_sees_again_what_came_before(rig: Rig) -> None:
    """And nothing of that is sent; what it sees are the same events, by the same keys."""
    first = RememberingSink(1 << 20)
    rig.write(*lines(*range(5)))
    compress(rotate(rig.path, NOON), "zstd")
    rig.write(*lines(*range(5, 10)), event_line(10, "reception"))
    async with rig.running(first, events=["delivery"]):
        await rig.until(lambda: rig.runner.status().sent == 10)
        await rig.until(lambda: rig.runner.state.position.offset)
    assert first.recalled == []  # there was nothing before
    rig.write(*lines(11, 12))
    second = RememberingSink(1 << 20)
    async with rig.running(second, events=["delivery"]):
        await rig.until(lambda: len(second.taken) == 2)
    assert (second.recalled, second.taken) == (list(range(10)), [11, 12])
    assert second.recalled_keys == first.keys
    third = RememberingSink(2 * len(event_line(12)) + 3)
    async with rig.running(third, events=["delivery"]):
        rig.write(*lines(13))
        await rig.until(lambda: third.taken)
    assert (third.recalled, third.taken) == ([11, 12], [13])
    for file in list_files(rig.path):
        file.path.unlink()
    rig.write(*lines(14))
    fourth = RememberingSink(1 << 20)  # the file is gone in which it stood
    async with rig.running(fourth, events=["delivery"]):
        await rig.until(lambda: fourth.taken)
    assert (fourth.recalled, fourth.taken) == ([], [14])


@pytest.mark.parametrize("how", ["gzip", "zstd"])
async def test_a_damaged_file_behind_it_does_not_keep_a_stream_from_going_on(rig: Rig, how: Any) -> None:
    rig.write(*lines(*range(200)))
    rotated = rotate(rig.path, NOON)
    rig.write(*lines(200))
    async with rig.running():
        await rig.until(lambda: rig.runner.status().sent == 201)
        await rig.until(lambda: rig.runner.state.position.offset == len(event_line(200)))
    compress(rotated, how)
    (file,) = (file for file in list_files(rig.path) if file.compressed)
    os.truncate(file.path, file.size - 20)
    with file.path.open("r+b") as opened:
        opened.seek(-30, os.SEEK_END)
        opened.write(b"\xff" * 30)
    rig.write(*lines(201))
    sink = RememberingSink(1 << 20)
    async with rig.running(sink):
        await rig.until(lambda: sink.taken)
    assert sink.taken == [201]


async def test_what_was_under_way_when_it_stopped_comes_again_with_the_same_keys(rig: Rig) -> None:
    rig.write(*lines(0, 1))
    rig.sink.hang = True
    async with rig.running():
        await rig.sink.hanging.wait()
    rig.sink.hang = False
    async with rig.running():
        await rig.until(lambda: rig.sink.taken)
    assert rig.sink.calls == [[0, 1], [0, 1]]
    first = load(rig.folder)
    assert first is not None
    assert rig.sink.keys == [
        f"{first.position.head}-{len(event_line(0))}",
        f"{first.position.head}-{2 * len(event_line(0))}",
    ]


async def test_who_takes_too_long_has_not_taken(rig: Rig) -> None:
    rig.write(*lines(0))
    rig.sink.hang = True
    async with rig.running(timeout_s=0.01):
        await rig.until(lambda: rig.runner.status().failures)
        assert rig.runner.status().error == "no answer within 0.01 s"
        rig.sink.hang = False
        await rig.until(lambda: rig.sink.taken)


async def test_only_what_was_chosen_is_sent_and_the_rest_is_passed(rig: Rig) -> None:
    rig.write(
        event_line(0, "bounce", tenant="shop"),
        event_line(1, "bounce", tenant="other"),
        event_line(2, "delivery", tenant="shop"),
        event_line(3, "bounce"),
        b'{"time":"2026-11-26T00:00:00.000000Z","event":"bounce","tenant":"sh\n',
        event_line(4, "bounce", tenant="shop"),
        event_line(5, "stream", stream="crm", tenant="shop"),
    )
    async with rig.running(events=("bounce", "stream"), tenants=("shop",)):
        await rig.until(lambda: len(rig.sink.taken) == 2)
        await rig.runner.look_ahead()
        await rig.until(lambda: rig.runner.status().lag_events == 0)
    assert rig.sink.taken == [0, 4]


async def test_how_far_it_is_behind(rig: Rig) -> None:
    rig.write(*lines(*range(30)))
    rig.sink.answer = unavailable
    rig.clock.jump(1795651200.0 + 100)  # 2026-11-26T00:01:40Z
    async with rig.running(batch_events=10):
        await rig.until(lambda: rig.sink.calls)
        await rig.runner.look_ahead()
        status = rig.runner.status()
        assert (status.lag_events, status.lag_s) == (30, 100.0)
        rig.sink.answer = lambda numbers: None
        await rig.until(lambda: len(rig.sink.taken) == 30)
        await rig.until(lambda: rig.runner.status().state == "idle")
        status = rig.runner.status()
        assert (status.lag_events, status.lag_s, status.sent, status.batches) == (0, 0.0, 30, 3)


async def test_what_was_refused_for_so_long_is_halved_until_what_is_to_blame_is_found(rig: Rig) -> None:
    def poison(numbers: list[int]) -> None:
        if 5 in numbers:
            raise SinkFailure("HTTP status 422: number 5 is nothing", refused=True)

    rig.write(*lines(*range(8)))
    rig.sink.answer = poison
    async with rig.running(give_up_s=60.0):
        await rig.until(lambda: len(rig.sink.calls) > 2)
        assert rig.sink.taken == []
        rig.clock.advance(61)
        await rig.until(lambda: len(rig.sink.taken) == 7)
        await rig.until(lambda: rig.runner.status().state == "idle" or not rig.runner.status().lag_s)
        assert rig.runner.status().dead_letters == 1
        rig.write(*lines(8))
        await rig.until(lambda: rig.sink.taken[-1] == 8)
    assert rig.sink.taken == [0, 1, 2, 3, 4, 6, 7, 8]
    (letter,) = (rig.folder / "dead-letters.jsonl").read_bytes().splitlines()
    assert json.loads(letter)["event"] == json.loads(event_line(5))
    letters = [fields for event, fields in rig.events if event == "dead_letter"]
    assert [(fields["events"], fields["text"]) for fields in letters] == [(1, "HTTP status 422: number 5 is nothing")]


async def test_while_the_other_side_is_away_a_batch_for_each_time_of_patience_is_set_aside_whole(rig: Rig) -> None:
    rig.write(*lines(*range(6)))
    rig.sink.answer = unavailable
    async with rig.running(batch_events=3, give_up_s=60.0):
        await rig.until(lambda: rig.runner.status().failures)
        rig.clock.advance(61)
        await rig.until(lambda: rig.runner.status().dead_letters == 3)
        await rig.until(lambda: rig.sink.calls[-1] == [3, 4, 5])
        assert rig.runner.status().dead_letters == 3  # the next has its own time
        rig.sink.answer = lambda numbers: None
        await rig.until(lambda: rig.sink.taken == [3, 4, 5])
        assert rig.runner.resend() == 3
        await rig.until(lambda: rig.sink.taken == [3, 4, 5, 0, 1, 2])
        await rig.until(lambda: not (rig.folder / "resending.jsonl").exists())
        assert rig.runner.status().dead_letters == 0
        assert rig.runner.resend() == 0


async def test_dead_letters_that_were_being_sent_when_it_stopped_are_sent_by_the_successor(rig: Rig) -> None:
    rig.write(*lines(9))
    async with rig.running():
        await rig.until(lambda: rig.sink.taken == [9])
    letters = (b'{"key":"k-%d","event":%b}\n' % (number, line[:-1]) for number, line in enumerate(lines(0, 1)))
    (rig.folder / "resending.jsonl").write_bytes(b"".join(letters))
    async with rig.running():
        await rig.until(lambda: rig.sink.taken == [9, 0, 1])


async def test_half_of_what_is_too_large_is_sent_at_once(rig: Rig) -> None:
    def small(numbers: list[int]) -> None:
        if len(numbers) > 2 or 6 in numbers:
            raise SinkFailure("HTTP status 413", too_large=True)

    rig.write(*lines(*range(7)))
    rig.sink.answer = small
    async with rig.running():
        await rig.until(lambda: len(rig.sink.taken) == 6)
        await rig.until(lambda: rig.runner.status().dead_letters == 1)
    assert rig.sink.taken == list(range(6))


async def test_what_was_taken_of_a_batch_is_not_sent_again(rig: Rig) -> None:
    def half(numbers: list[int]) -> None:
        if numbers[0] == 0:
            raise SinkFailure("connection lost", taken=2)

    rig.write(*lines(*range(4)))
    rig.sink.answer = half
    async with rig.running():
        await rig.until(lambda: rig.runner.status().sent == 4)
    assert len(rig.sink.taken) == 4
    assert rig.sink.calls == [[0, 1, 2, 3], [2, 3]]


async def test_dead_letters_beyond_their_room_are_lost_and_counted(rig: Rig) -> None:
    rig.write(*lines(0, 1))
    rig.sink.answer = unavailable
    async with rig.running(give_up_s=1.0, dead_letter_size_octets=10):
        await rig.until(lambda: rig.runner.status().failures)
        rig.clock.advance(2)
        await rig.until(lambda: rig.runner.status().lost == 2)
    assert rig.events[-1] == (
        "stream_lost",
        {
            "stream": "crm",
            "why": "HTTP status 503; no room for a dead letter: stream.dead_letter_size is reached",
            "events": 2,
        },
    )


async def test_what_retention_takes_is_counted_and_the_stream_goes_on(rig: Rig) -> None:
    rig.write(*lines(*range(10)))
    rig.sink.answer = unavailable
    async with rig.running(batch_events=4):
        await rig.until(lambda: rig.sink.calls)
        rotate(rig.path, NOON)
        rig.write(*lines(10, 11))
        files = list_files(rig.path)
        assert rig.runner.first_needed(files) == 0
        await rig.runner.lose(files[0])
        files[0].path.unlink()
        rig.sink.answer = lambda numbers: None
        await rig.until(lambda: 11 in rig.sink.taken)
        await rig.until(lambda: rig.runner.first_needed(list_files(rig.path)) == 0)
        assert rig.runner.status().lost == 6
    assert rig.sink.taken == [0, 1, 2, 3, 10, 11]  # the batch under way was in memory
    assert [fields for event, fields in rig.events if event == "stream_lost"] == [
        {"stream": "crm", "why": "events.keep_unsent is reached", "events": 6}
    ]


async def test_dead_letters_that_somebody_took_away_are_none(rig: Rig) -> None:
    rig.write(*lines(0, 1))
    rig.sink.answer = unavailable
    async with rig.running(give_up_s=1.0):
        await rig.until(lambda: rig.runner.status().failures)
        rig.clock.advance(2)
        await rig.until(lambda: rig.runner.status().dead_letters == 2)
        (rig.folder / "dead-letters.jsonl").unlink()
        assert rig.runner.status().dead_letters == 0
        before = rig.runner.status().failures
        rig.write(*lines(2))
        await rig.until(lambda: rig.runner.status().failures > before)
        rig.clock.advance(2)
        await rig.until(lambda: rig.runner.status().dead_letters == 1)


async def test_a_file_that_is_gone_is_said(rig: Rig) -> None:
    rig.folder.mkdir(parents=True)
    save(rig.folder, StreamState(Position("nobody", "2026-11-25T00:00:00.000000Z", 100), sent=7))
    rig.write(*lines(1))
    async with rig.running():
        await rig.until(lambda: rig.sink.taken)
        await rig.until(lambda: rig.runner.status().sent == 8)
        assert rig.runner.status().lost == 1  # nobody knows how many, and none would be seen by nobody
    assert rig.events == [("stream_lost", {"stream": "crm", "why": "the file that was being read is gone"})]


async def test_a_forwarder_never_gives_up(rig: Rig) -> None:
    rig.write(*lines(0))
    rig.sink.answer = unavailable
    async with rig.running(gives_up=False, give_up_s=1.0):
        await rig.until(lambda: rig.runner.status().failures)
        rig.clock.advance(100)
        seen = len(rig.sink.calls)
        await rig.until(lambda: len(rig.sink.calls) > seen + 3)
        rig.sink.answer = lambda numbers: None
        await rig.until(lambda: rig.sink.taken)
    assert not (rig.folder / "dead-letters.jsonl").exists()


async def test_a_full_disk_does_not_keep_events_from_going(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, state: StreamState) -> None:
        raise OSError(28, "No space left on device")

    rig.write(*lines(0, 1))
    async with rig.running():
        monkeypatch.setattr("angarium.app.stream.runner.save", full)
        await rig.until(lambda: len(rig.sink.taken) >= 2)
        rig.write(*lines(2))
        await rig.until(lambda: 2 in rig.sink.taken)
    assert rig.sink.taken == [0, 1, 2]


async def test_a_failure_that_is_no_refusal_sets_nothing_aside_while_a_batch_is_halved(rig: Rig) -> None:
    """The receiver goes away while it is found out which event it refuses: only that one is a dead letter."""
    away = False

    def poison(numbers: list[int]) -> None:
        nonlocal away
        if away:
            raise SinkFailure("HTTP status 503")
        if 5 in numbers:
            away = len(numbers) == 4  # after the first half was refused once more
            raise SinkFailure("HTTP status 422", refused=True)

    rig.write(*lines(*range(8)))
    rig.sink.answer = poison
    async with rig.running(give_up_s=60.0):
        await rig.until(lambda: len(rig.sink.calls) > 2)
        rig.clock.advance(61)
        await rig.until(lambda: away)
        seen = len(rig.sink.calls)
        await rig.until(lambda: len(rig.sink.calls) > seen + 3)
        away = False
        rig.sink.answer = lambda numbers: poison([*numbers, -1])  # never four again
        await rig.until(lambda: len(rig.sink.taken) == 7)
        await rig.until(lambda: rig.runner.status().dead_letters == 1)
    assert rig.sink.taken == [0, 1, 2, 3, 4, 6, 7]


async def test_dead_letters_that_are_refused_again_keep_nobody_waiting_and_have_their_keys(rig: Rig) -> None:
    def poison(numbers: list[int]) -> None:
        if 1 in numbers:
            raise SinkFailure("HTTP status 422", refused=True)

    rig.write(*lines(0, 1, 2))
    rig.sink.answer = unavailable
    async with rig.running(give_up_s=60.0):
        await rig.until(lambda: rig.runner.status().failures)
        rig.clock.advance(61)
        await rig.until(lambda: rig.runner.status().dead_letters == 3)
        letters = [json.loads(line) for line in (rig.folder / "dead-letters.jsonl").read_bytes().splitlines()]
        assert [letter["event"]["number"] for letter in letters] == [0, 1, 2]
        rig.sink.answer = poison
        rig.write(*lines(3))
        await rig.until(lambda: 3 in rig.sink.taken)
        rig.sink.keys.clear()
        assert rig.runner.resend() == 3
        rig.write(*lines(4))
        await rig.until(
            lambda: {0, 2, 4} <= set(rig.sink.taken)
        )  # the clock stands still: nobody has waited for give_up
        await rig.until(lambda: rig.runner.status().dead_letters == 1)
    sent = dict(zip(rig.sink.taken[1:], rig.sink.keys, strict=True))
    assert sorted(sent) == [0, 2, 4]
    assert (sent[0], sent[2]) == (letters[0]["key"], letters[2]["key"])


async def test_the_half_of_a_dead_letter_is_said_to_be_lost_and_harms_no_other(rig: Rig) -> None:
    rig.folder.mkdir(parents=True)
    file = rig.folder / "dead-letters.jsonl"
    file.write_bytes(b'{"key":"k-0","event":%b}\n{"key":"k-1","ev' % event_line(0)[:-1])  # a power failure
    rig.write(*lines(7))
    rig.sink.answer = unavailable
    async with rig.running(give_up_s=60.0):
        await rig.until(lambda: rig.runner.status().failures)
        rig.clock.advance(61)
        await rig.until(lambda: file.read_bytes().count(b"\n") == 3)
        rig.sink.answer = lambda numbers: None
        rig.runner.resend()
        await rig.until(lambda: rig.sink.taken == [0, 7])
        await rig.until(lambda: rig.runner.status().lost == 1)
        assert rig.runner.status().dead_letters == 0
    assert ("stream_lost", {"stream": "crm", "why": "a dead letter cannot be read", "events": 1}) in rig.events


@pytest.mark.parametrize("failure", [RuntimeError("a library's own"), asyncio.CancelledError()])
async def test_whatever_a_library_raises_is_a_batch_that_was_not_taken(rig: Rig, failure: BaseException) -> None:
    def break_down(numbers: list[int]) -> None:
        raise failure

    rig.write(*lines(0, 1))
    rig.sink.answer = break_down
    async with rig.running():
        await rig.until(lambda: rig.runner.status().failures > 1)
        assert type(failure).__name__ in rig.runner.status().error
        rig.sink.answer = lambda numbers: None
        await rig.until(lambda: rig.sink.taken == [0, 1])


async def test_a_connection_that_does_not_let_itself_be_closed_is_left_behind(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("angarium.app.stream.runner.CLOSE_S", 0.001)
    forever = asyncio.Event()

    async def never() -> None:
        await forever.wait()

    monkeypatch.setattr(rig.sink, "close", never)
    rig.write(*lines(0))
    rig.sink.hang = True
    async with rig.running(timeout_s=0.01):
        await rig.until(lambda: rig.runner.status().failures > 1)
        rig.sink.hang = False
        await rig.until(lambda: rig.sink.taken == [0])
    forever.set()


async def test_a_batch_goes_though_the_log_never_ends(rig: Rig) -> None:
    """Only one in many of the lines is chosen, and more come at each look."""
    rig.write(event_line(0, "bounce"), *lines(1, 2))

    def more(line: bytes) -> bytes:
        rig.write(*lines(9))
        rig.clock.advance(0.5)
        return line if b"bounce" in line else b""

    async with rig.running(events=("bounce",), batch_wait_s=1.0) as runner:
        runner._choice.taken_of = more  # type: ignore[method-assign]
        await rig.until(lambda: rig.sink.taken == [0])


async def test_an_event_behind_the_half_of_a_line_is_sent(rig: Rig) -> None:
    rig.write(*lines(0), event_line(1)[:40], *lines(2))
    async with rig.running():
        await rig.until(lambda: rig.sink.taken == [0, 2])


async def test_a_state_that_cannot_be_read_keeps_its_stream_from_beginning(rig: Rig) -> None:
    rig.folder.mkdir(parents=True)
    broken = rig.folder / "state.json"
    broken.write_bytes(b"{}")
    rig.write(*lines(0))
    async with rig.running() as runner:
        await rig.until(lambda: runner.status().state == "failing")
        assert "it cannot begin: " in runner.status().error
        assert runner.first_needed(list_files(rig.path)) == 0  # nothing that it may need is deleted
        assert broken.read_bytes() == b"{}"
        broken.unlink()
        await rig.until(lambda: rig.sink.taken == [0])
        await rig.until(lambda: runner.status().state == "idle" or not runner.status().lag_s)


async def test_no_secret_is_told(rig: Rig, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open-sesame\n")
    rig.write(*lines(0))

    def talkative(numbers: list[int]) -> None:
        raise SinkFailure("HTTP status 403 of /mail?token=a%20b: open-sesame is no password, nor is a b", refused=True)

    rig.sink.answer = talkative
    async with rig.running(url="https://crm.test/mail?token=a%20b42", secret_file=str(secret)) as runner:
        await rig.until(lambda: runner.status().failures)
        error = runner.status().error
    assert "HTTP status 403" in error
    assert "open-sesame" not in error
    assert "open-sesame" not in str(rig.events)


async def test_what_was_lost_is_known_after_a_kill(rig: Rig) -> None:
    """A batch is under way when a file goes that it had not sent: the count is on disk before the batch is settled."""
    rig.write(*lines(*range(10)))
    rig.sink.hang = True
    async with rig.running(batch_events=4):
        await rig.sink.hanging.wait()
        rotate(rig.path, NOON)
        rig.write(*lines(10))
        await rig.runner.lose(list_files(rig.path)[0])
        on_disk = load(rig.folder)
    assert on_disk is not None
    assert on_disk.lost == 6


def test_a_disk_that_takes_a_part_of_a_state_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StreamState(Position("abc", "2026-11-25T00:00:00.000000Z", 5), sent=3)
    save(tmp_path, state)
    write, calls = os.write, []

    def nearly_full(fd: int, octets: bytes) -> int:
        calls.append(len(octets))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(fd, octets[:20])

    monkeypatch.setattr("os.write", nearly_full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, StreamState(Position("abc", "2026-11-25T00:00:00.000000Z", 9), sent=4))
    monkeypatch.undo()
    assert len(calls) == 2
    assert load(tmp_path) == state


def test_a_state_is_on_disk_before_it_takes_the_place_of_the_other_and_so_is_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(fd: int) -> None:
        done.append(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{fd}'))}")
        fsync(fd)

    def note_replace(source: Path, target: Path) -> None:
        done.append(f"replace {source.name} {target.name}")
        replace(source, target)

    monkeypatch.setattr("os.fsync", note_fsync)
    monkeypatch.setattr("os.replace", note_replace)
    save(tmp_path, StreamState(Position()))
    assert done == ["fsync state.json.new", "replace state.json.new state.json", f"fsync {tmp_path.name}"]


def test_a_state_is_whole_or_not_there(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    state = StreamState(Position("abc", "2026-11-25T00:00:00.000000Z", 5), sent=3)
    save(tmp_path, state)
    assert load(tmp_path) == state
    (tmp_path / "state.json.new").write_bytes(b"half")
    assert load(tmp_path) == state
    (tmp_path / "state.json").write_bytes(b"{}")
    with pytest.raises(ValueError, match="not the state of a stream"):
        load(tmp_path)
