"""Failures and bans over the end of a process: what the file keeps, what it does not, and what it may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from angarium.config.credentials import Access
from angarium.policy import failure_table
from angarium.policy.failure_file import FILE, SAVE_S, FailureFile
from angarium.policy.failure_table import FailureTable
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS, OTHER = "192.0.2.1", "198.51.100.9"


class Process:
    """The table of one access process, and its file."""

    def __init__(self, folder: Path, clock: FakeClock, **access: Any) -> None:
        settings = {"address_failures": 3, "log_in_failures": 4, "ban_s": 900.0} | access
        self.table = FailureTable(Access(**settings), clock.monotonic)
        self.file = FailureFile(folder, self.table, clock)
        self.lost = self.file.load()

    def fail(self, times: int, log_in: str = "user", address: str = ADDRESS, *, exists: bool = True) -> None:
        for _ in range(times):
            self.table.failed(address, log_in, exists=exists)


def successor(clock: FakeClock) -> FakeClock:
    """The clock of a process that starts now: its monotonic time has nothing to do with the one before."""
    return FakeClock(clock.now(), monotonic=7.0)


async def test_a_ban_ends_when_it_would_have(tmp_path: Path) -> None:
    clock = FakeClock()
    before = Process(tmp_path, clock)
    before.fail(3)
    await before.file.save()
    clock.advance(800)
    clock = successor(clock)
    after = Process(tmp_path, clock)
    assert after.lost == ""
    assert [(ban.of, ban.failures, ban.left_s) for ban in after.table.bans()] == [(ADDRESS, 3, 100.0)]
    assert after.table.banned(ADDRESS, "anybody")
    clock.advance(100)
    assert not after.table.banned(ADDRESS, "anybody")


async def test_failures_that_lead_to_a_ban_go_on_counting(tmp_path: Path) -> None:
    clock = FakeClock()
    before = Process(tmp_path, clock)
    before.fail(2)
    await before.file.save()
    after = Process(tmp_path, successor(clock))
    assert after.table.delay_s(ADDRESS) == before.table.delay_s(ADDRESS) > 1
    assert not after.table.banned(ADDRESS, "user")
    after.fail(1)
    assert after.table.banned(ADDRESS, "user")


async def test_a_ban_of_a_log_in_does_not_lock_its_owner_out_after_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    before = Process(tmp_path, clock, address_failures=100)
    before.table.succeeded(OTHER, "User")
    before.fail(4)
    await before.file.save()
    after = Process(tmp_path, successor(clock))
    assert [(ban.kind, ban.of) for ban in after.table.bans()] == [("log_in", "user")]
    assert after.table.banned(ADDRESS, "USER")
    assert not after.table.banned(OTHER, "user")
    assert after.table.rank(OTHER, "user") == 0


async def test_a_password_in_the_wrong_field_is_not_in_the_file(tmp_path: Path) -> None:
    clock = FakeClock()
    before = Process(tmp_path, clock, address_failures=100)
    before.fail(2, "hunter2", exists=False)
    before.fail(3, "guessed", OTHER, exists=False)
    await before.file.save()
    octets = (tmp_path / FILE).read_bytes()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert b"hunter2" not in octets
    assert b"guessed" not in octets
    kept = before.table.kept(clock.now())
    assert len(kept.entries["log_in"]) == 1  # who is guessed at is counted, by a hash
    assert len(kept.entries["address"]) == 2


async def test_it_is_written_when_it_has_changed_and_once_a_second_at_most(tmp_path: Path) -> None:
    clock = FakeClock()
    process = Process(tmp_path, clock)
    await process.file.save()
    assert not (tmp_path / FILE).exists()
    process.fail(1)
    await process.file.save()
    first = (tmp_path / FILE).read_bytes()
    process.fail(1)
    await process.file.save()
    assert (tmp_path / FILE).read_bytes() == first
    clock.advance(SAVE_S)
    await process.file.save()
    second = (tmp_path / FILE).read_bytes()
    assert second != first
    process.fail(1)
    await process.file.save(at_once=True)
    assert (tmp_path / FILE).read_bytes() != second
    (tmp_path / FILE).unlink()
    clock.advance(SAVE_S)
    await process.file.save(at_once=True)
    assert not (tmp_path / FILE).exists()  # nothing has changed


async def test_a_ban_that_was_lifted_does_not_come_back(tmp_path: Path) -> None:
    clock = FakeClock()
    before = Process(tmp_path, clock)
    before.fail(3)
    await before.file.save()
    before.table.lift(ADDRESS)
    await before.file.save(at_once=True)
    assert Process(tmp_path, successor(clock)).table.bans() == []


async def test_every_damage_costs_the_file_and_nothing_else(tmp_path: Path) -> None:
    clock = FakeClock()
    before = Process(tmp_path, clock)
    before.fail(3)
    await before.file.save()
    whole = (tmp_path / FILE).read_bytes()
    broken = [whole[:length] for length in range(len(whole))]
    broken += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for octets in [*broken, whole + b"x", b"{}"]:
        (tmp_path / FILE).write_bytes(octets)
        after = Process(tmp_path, successor(clock))
        assert after.lost == "it is damaged"
        assert after.table.bans() == []
    after.fail(3)
    await after.file.save()
    assert Process(tmp_path, successor(clock)).table.banned(ADDRESS, "")


@pytest.mark.parametrize(("back_s", "lost"), [(59, ""), (3600, "it was written 3600 s in the future")])
async def test_a_calendar_that_went_back(tmp_path: Path, back_s: int, lost: str) -> None:
    clock = FakeClock()
    before = Process(tmp_path, clock)
    before.fail(3)
    await before.file.save()
    clock.jump(clock.now() - back_s)
    after = Process(tmp_path, successor(clock))
    assert after.lost == lost
    # and nobody is banned for longer than a ban lasts
    assert [ban.left_s for ban in after.table.bans()] == ([] if lost else [900.0])


async def test_a_ban_is_no_longer_than_the_configuration_says_now(tmp_path: Path) -> None:
    clock = FakeClock()
    before = Process(tmp_path, clock)
    before.fail(3)
    await before.file.save()
    after = Process(tmp_path, successor(clock), ban_s=60.0)
    assert [ban.left_s for ban in after.table.bans()] == [60.0]


async def test_the_file_is_bounded_and_bans_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_table, "MOST_KEPT", 5)
    clock = FakeClock()
    before = Process(tmp_path, clock)
    before.fail(3)
    for number in range(20):
        clock.advance(1)
        before.fail(1, f"user{number}", f"198.51.100.{number}")
        before.table.succeeded(OTHER, f"user{number}")
    await before.file.save()
    kept = before.table.kept(clock.now())
    assert {entry.key for entry in kept.entries["address"]} == {ADDRESS, *(f"198.51.100.{n}" for n in range(16, 20))}
    assert len(kept.entries["log_in"]) == len(kept.known) == 5
    after = Process(tmp_path, successor(clock))
    assert after.table.rank(OTHER, "user19") == 0
    assert after.table.rank(OTHER, "user3") > 0


async def test_what_has_sunk_to_nothing_is_not_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    process = Process(tmp_path, clock)
    process.fail(2)
    clock.advance(3601)
    kept = process.table.kept(clock.now())
    assert kept.entries == {"address": [], "log_in": []}


async def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    folder = tmp_path / "gone"
    process = Process(folder, clock)
    for _ in range(3):
        process.fail(1)
        clock.advance(SAVE_S)
        await process.file.save()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    folder.mkdir()
    await process.file.save(at_once=True)
    assert Process(folder, successor(clock)).table.bans()
