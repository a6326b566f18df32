"""The table of what senders have sent: exact limits, whoever counts, and what outlives whom."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from angarium._core.quota import LEARNED_HOURS, LEAST_UNUSUAL, STEP_S, Quota, QuotaTable, QuotaVerdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OK, LATER = QuotaVerdict.QUOTA_OK, QuotaVerdict.QUOTA_LATER
HOUR_REACHED, DAY_REACHED = QuotaVerdict.QUOTA_HOUR_REACHED, QuotaVerdict.QUOTA_DAY_REACHED
START = 1_699_999_200  # at the beginning of a step, and of an hour
HOUR = 3600
DAY = 86400


def key(number: int) -> bytes:
    return number.to_bytes(8, "little") + (number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "little")


@pytest.fixture
def table(tmp_path: Path) -> QuotaTable:
    return QuotaTable(str(tmp_path / "quota.table"), 64)


def test_the_start_is_one() -> None:
    assert START % HOUR == START % STEP_S == 0


def test_an_hour_ends_and_so_does_its_limit(table: QuotaTable) -> None:
    quota = Quota(table, key(1), per_hour=10)
    assert quota.ask(10, START) == OK
    assert quota.ask(11, START) == HOUR_REACHED
    assert quota.count(7, START) == OK
    assert quota.count(4, START + 60) == HOUR_REACHED
    assert quota.count(3, START + 60) == OK
    assert quota.used(START + 60) == (10, 10, 0)
    # an hour later, and at most a step more
    assert quota.ask(1, START + HOUR + 599) == HOUR_REACHED
    assert quota.count(10, START + HOUR + 600) == OK
    assert quota.used(START + HOUR + 600) == (10, 20, 0)


def test_a_day_ends_and_so_does_its_limit(table: QuotaTable) -> None:
    quota = Quota(table, key(1), per_hour=10, per_day=15)
    assert quota.count(10, START) == OK
    assert quota.count(5, START + 2 * HOUR) == OK
    assert quota.ask(1, START + 4 * HOUR) == DAY_REACHED
    assert quota.count(10, START + DAY + 600) == OK
    assert quota.ask(1, START + DAY + 600) == HOUR_REACHED
    assert quota.ask(1, START + DAY + 2 * HOUR) == DAY_REACHED


def test_senders_have_a_limit_each(table: QuotaTable) -> None:
    one, other = Quota(table, key(1), per_hour=2), Quota(table, key(2), per_hour=2)
    assert one.count(2, START) == OK
    assert other.count(2, START) == OK
    assert (one.ask(1, START), other.ask(1, START)) == (HOUR_REACHED, HOUR_REACHED)


def test_what_was_not_taken_is_given_back(table: QuotaTable) -> None:
    quota = Quota(table, key(1), per_hour=3)
    assert quota.count(3, START) == OK
    quota.uncount(quota.step, 3, START + 1)
    assert quota.used(START + 1) == (0, 0, 0)
    quota.uncount(quota.step, 3, START + 2)  # never below nothing
    assert quota.count(3, START + 3) == OK


def test_what_is_over_the_limit_goes_in_order_when_there_is_room(table: QuotaTable) -> None:
    quota = Quota(table, key(1), per_hour=10, queues=True)
    assert quota.count(10, START) == OK
    gone = []
    for _ in range(5):
        assert quota.count(4, START + 60) == LATER
        gone.append(quota.step * STEP_S - START)
    # two of them fit into each hour, which is seven steps
    assert gone == [4200, 4200, 8400, 8400, 12600]
    # what is small enough for the room that was left waits behind them all the same
    assert quota.count(1, START + 120) == LATER
    assert quota.step * STEP_S - START == 12600
    assert quota.used(START + 120) == (10, 10, 21)
    # and when all of it has gone, mail goes at once again
    assert quota.count(5, START + 12600) == OK
    assert quota.used(START + 12600) == (10, 36, 0)


def test_nothing_is_put_off_for_ever(table: QuotaTable) -> None:
    quota = Quota(table, key(1), per_day=10, queues=True)
    verdicts = [quota.count(10, START) for _ in range(4)]
    assert verdicts == [OK, LATER, LATER, DAY_REACHED]
    assert quota.ask(11, START) == DAY_REACHED  # more than ever go together


def test_both_processes_count_in_one_table(tmp_path: Path) -> None:
    path = str(tmp_path / "quota.table")
    one = Quota(QuotaTable(path, 64), key(1), per_hour=3)
    other = Quota(QuotaTable(path, 64), key(1), per_hour=3)
    assert [one.count(1, START), other.count(1, START), one.count(1, START)] == [OK] * 3
    assert other.count(1, START) == HOUR_REACHED


def in_child(work: Callable[[], None]) -> int:
    """The id of a new process that does this, and nothing of pytest's."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_many_processes_at_once_never_pass_the_limit(tmp_path: Path) -> None:
    path = str(tmp_path / "quota.table")
    read_fd, write_fd = os.pipe()

    def work() -> None:
        quota = Quota(QuotaTable(path, 64), key(1), per_hour=1000)
        taken = sum(quota.count(1, START) == OK for _ in range(500))
        os.write(write_fd, b"x" * taken)

    children = [in_child(work) for _ in range(4)]
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    os.close(write_fd)
    taken = 0
    while octets := os.read(read_fd, 65536):
        taken += len(octets)
    os.close(read_fd)
    assert taken == 1000
    assert Quota(QuotaTable(path, 64), key(1), per_hour=1000).used(START) == (1000, 1000, 0)


def test_a_killed_process_blocks_nobody(tmp_path: Path) -> None:
    """Wherever it was: the kernel drops its lock, and what it had counted is counted."""
    path = str(tmp_path / "quota.table")
    read_fd, write_fd = os.pipe()

    def work() -> None:
        quota = Quota(QuotaTable(path, 64), key(1), per_hour=1_000_000)
        os.write(write_fd, b"x")
        while True:
            quota.count(1, START)

    pid = in_child(work)
    assert os.read(read_fd, 1) == b"x"
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    os.close(read_fd)
    os.close(write_fd)
    quota = Quota(QuotaTable(path, 64), key(1), per_hour=1_000_000)
    before = quota.used(START)[0]
    assert quota.count(1, START) == OK
    assert quota.used(START)[0] == before + 1


def test_the_table_is_there_after_everybody_has_gone(tmp_path: Path) -> None:
    path = str(tmp_path / "quota.table")
    table = QuotaTable(path, 64)
    assert Quota(table, key(1), per_hour=5).count(5, START) == OK
    table.close()
    assert Quota(QuotaTable(path, 64), key(1), per_hour=5).count(1, START) == HOUR_REACHED


@pytest.mark.parametrize("octets", [b"", b"x" * 100, b"\0" * 4096, b"y" * 200_000])
def test_a_file_that_is_none_is_replaced(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "quota.table"
    path.write_bytes(octets)
    quota = Quota(QuotaTable(str(path), 64), key(1), per_hour=1)
    assert quota.used(START) == (0, 0, 0)
    assert quota.count(1, START) == OK


def test_a_table_without_room_counts_strangers_together(table: QuotaTable) -> None:
    quotas = [Quota(table, key(number), per_hour=2) for number in range(1, 200)]
    for quota in quotas:
        quota.count(1, START)
    assert table.shared > 0
    # nobody has more than its limit, and nothing is forgotten
    for quota in quotas:
        assert quota.count(2, START) == HOUR_REACHED
    # a day later the places of those who sent nothing are used again
    later = START + DAY + 3 * HOUR
    fresh = [Quota(table, key(number), per_hour=2) for number in range(1000, 1030)]
    shared = table.shared
    for quota in fresh:
        assert quota.count(2, later) == OK
    assert table.shared == shared


def test_a_clock_that_goes_back(table: QuotaTable) -> None:
    quota = Quota(table, key(1), per_hour=2)
    assert quota.count(2, START + HOUR) == OK
    assert quota.ask(1, START + HOUR - 60) == HOUR_REACHED  # a little: time stands still
    assert quota.count(1, START - DAY) == OK  # very far: it begins anew


def test_unusual_is_more_than_a_number(table: QuotaTable) -> None:
    quota = Quota(table, key(1), unusual_above=10)
    assert quota.count(10, START) == OK
    assert (quota.unusual, quota.tripped) == (False, False)
    assert quota.count(1, START) == OK
    assert (quota.unusual, quota.tripped, quota.arrived) == (True, True, 11)
    assert quota.count(1, START + 5 * DAY) == OK
    assert (quota.unusual, quota.tripped) == (True, False)  # until somebody releases it
    assert quota.suspect(START + 5 * DAY)


def test_who_is_released_may_send_as_usual_again(table: QuotaTable) -> None:
    quota = Quota(table, key(1), unusual_above=10)
    quota.count(30, START)
    assert quota.excuse(START + 60)
    assert not quota.excuse(START + 60)
    quota.count(10, START + 120)
    assert not quota.unusual
    quota.count(1, START + 120)
    assert quota.tripped
    assert quota.excuse(START + 180)
    # what was excused is excused once: an hour later it is as if it had not been
    quota.count(11, START + 3 * HOUR)
    assert quota.tripped


def test_unusual_is_a_multiple_of_the_usual_hour(table: QuotaTable) -> None:
    quota = Quota(table, key(1), unusual_times=3)
    now = START
    quota.count(1000, now)
    assert not quota.unusual  # nothing is known of it yet
    for _ in range(200):
        now += HOUR
        quota.count(40, now)
        assert not quota.unusual
    mean, hours = quota.usual(now)
    assert hours == 50
    assert 39 < mean < 90
    now += 2 * HOUR
    quota.count(int(3 * mean) - 1, now)
    assert not quota.unusual
    quota.count(40, now)
    assert quota.tripped
    # the hours in which it is suspect are not usual
    for _ in range(20):
        now += HOUR
        quota.count(5000, now)
    assert quota.usual(now)[0] < 2 * mean


def test_little_is_never_unusual(table: QuotaTable) -> None:
    quota = Quota(table, key(1), unusual_times=2)
    now = START
    for _ in range(LEARNED_HOURS + 2):
        now += HOUR
        quota.count(1, now)
    now += 2 * HOUR
    quota.count(LEAST_UNUSUAL, now)
    assert not quota.unusual
    quota.count(1, now)
    assert quota.tripped


def test_what_is_no_key_or_table_is_refused(table: QuotaTable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16 are wanted"):
        Quota(table, b"x")
    with pytest.raises(ValueError, match="power of two"):
        QuotaTable(str(tmp_path / "other"), 33)
    with pytest.raises(FileNotFoundError):
        QuotaTable(str(tmp_path / "no" / "such"), 64)
    table.close()
    with pytest.raises((ValueError, OSError)):
        Quota(table, key(1), per_hour=1).count(1, START)


steps = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(1, 6), st.sampled_from(["count", "count", "count", "uncount"])),
    max_size=60,
)


@settings(max_examples=200)
@given(steps, st.integers(1, 12), st.integers(1, 30), st.booleans())
def test_no_hour_and_no_day_sees_more_than_the_limit(
    tmp_path_factory: pytest.TempPathFactory,
    actions: list[tuple[int, int, str]],
    per_hour: int,
    per_day: int,
    queues: bool,
) -> None:
    table = QuotaTable(str(tmp_path_factory.mktemp("quota") / "t"), 32)
    quota = Quota(table, key(1), per_hour=per_hour, per_day=per_day, queues=queues)
    now = START
    gone: list[tuple[int, int]] = []  # when, how many
    last: tuple[int, int, int] | None = None
    for pause, n, action in actions:
        now += pause
        if action == "uncount" and last is not None:
            quota.uncount(last[0], last[1], now)
            gone[last[2]] = (gone[last[2]][0], 0)
            last = None
            continue
        asked = quota.ask(n, now)
        verdict = quota.count(n, now)
        if not queues:
            assert (asked == OK) == (verdict == OK)
        if verdict in (OK, LATER):
            at = now if verdict == OK else quota.step * STEP_S
            assert at >= now
            assert (verdict == OK) == (quota.step == now // STEP_S)
            if gone and queues and last is not None:
                assert at >= gone[-1][0] or verdict == OK
            gone.append((at, n))
            last = (quota.step, n, len(gone) - 1)
        else:
            last = None
    for begin, _ in gone:
        assert sum(n for at, n in gone if begin <= at < begin + HOUR) <= per_hour
        assert sum(n for at, n in gone if begin <= at < begin + DAY) <= per_day
    table.close()
