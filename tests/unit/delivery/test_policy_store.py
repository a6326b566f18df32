"""Discovery, cache and refresh of MTA-STS policies, over DNS and HTTPS that the test plays."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from angarium.delivery.mail_host import ResolutionFailure, TextRecords
from angarium.delivery.mta_sts import Policy
from angarium.delivery.policy_store import (
    BUSY_S,
    DAY_S,
    FAILURE_FIRST_S,
    FAILURE_LONGEST_S,
    IDLE_S,
    LEAST_LIFE_S,
    FetchFailure,
    PolicyLimits,
    PolicyStore,
)
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

TTL_S = 300.0
WEEK_S = 7 * DAY_S
DOMAIN = "example.com"


def text_of(mode: str = "enforce", max_age: float = WEEK_S, mx: str = "mx.example.com") -> bytes:
    return f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: {int(max_age)}\n".encode()


class World:
    """What DNS and HTTPS say. A domain without a record has none; one without a file answers 404."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.ids: dict[str, str] = {}
        self.files: dict[str, bytes | FetchFailure] = {}
        self.dns_down = False
        self.fetched: list[str] = []
        self.reported: list[tuple[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.folder = folder
        self.store = self.start()

    def start(self, **limits: float) -> PolicyStore:
        """A store that begins with what the folder has, as after a restart."""
        self.store = PolicyStore(
            self.resolve,
            self.fetch,
            self.folder,
            self.clock,
            report=lambda domain, kind, text: self.reported.append((domain, kind)),
            limits=PolicyLimits(**limits),  # type: ignore[arg-type]
        )
        self.store.load()
        return self.store

    def publish(self, record: str, text: bytes | FetchFailure, domain: str = DOMAIN) -> None:
        self.ids[domain] = record
        self.files[domain] = text

    async def resolve(self, name: str) -> TextRecords:
        if self.dns_down:
            raise ResolutionFailure(False, 451, (4, 4, 3), "no name server had an answer")
        prefix, _, domain = name.partition(".")
        assert prefix == "_mta-sts"
        record = self.ids.get(domain)
        records = () if record is None else (f"v=STSv1; id={record};".encode(),)
        return TextRecords(name, records, False, self.clock.monotonic() + TTL_S)

    async def fetch(self, domain: str) -> bytes:
        self.fetched.append(domain)
        await self.gate.wait()
        found = self.files.get(domain, FetchFailure("sts-policy-fetch-error", "HTTP status 404"))
        if isinstance(found, FetchFailure):
            raise found
        return found

    async def policy(self, domain: str = DOMAIN) -> Policy | None:
        return (await self.store.policy(domain)).policy


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


ENFORCE = Policy("enforce", int(WEEK_S), ("mx.example.com",))
DOWN = FetchFailure("sts-policy-fetch-error", "connection refused")


async def test_a_policy_is_discovered_and_fetched_once(world: World) -> None:
    world.publish("1", text_of())
    answer = await world.store.policy(DOMAIN)
    assert answer.policy == ENFORCE
    assert answer.failure is None
    assert answer.expires == world.clock.monotonic() + TTL_S
    assert await world.policy() == ENFORCE
    assert world.fetched == [DOMAIN]
    assert (world.store.fetched, world.store.failed) == (1, 0)


async def test_without_a_record_nothing_is_fetched(world: World) -> None:
    world.files[DOMAIN] = text_of()
    assert await world.policy() is None
    assert world.fetched == []


async def test_a_new_id_brings_the_new_policy(world: World) -> None:
    world.publish("1", text_of())
    await world.policy()
    world.publish("2", text_of("none"))
    assert await world.policy() == Policy("none", int(WEEK_S), ("mx.example.com",))
    assert world.fetched == [DOMAIN, DOMAIN]


async def test_the_same_id_is_not_fetched_again(world: World) -> None:
    world.publish("1", text_of())
    await world.policy()
    world.publish("1", text_of("none"))
    assert await world.policy() == ENFORCE


@pytest.mark.parametrize("trouble", ["no DNS", "no record", "no file", "a bad file"])
async def test_trouble_takes_no_policy_away_before_its_time(world: World, trouble: str) -> None:
    world.publish("1", text_of())
    await world.policy()
    world.clock.advance(WEEK_S - 1)
    if trouble == "no DNS":
        world.dns_down = True
    elif trouble == "no record":
        world.ids.clear()
    else:
        world.publish("2", DOWN if trouble == "no file" else b"<html>")
    answer = await world.store.policy(DOMAIN)
    assert answer.policy == ENFORCE
    assert answer.expires <= world.clock.monotonic() + 1  # not beyond the policy's own end
    world.clock.advance(2)
    assert await world.policy() is None


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        (DOWN, "sts-policy-fetch-error"),
        (FetchFailure("sts-webpki-invalid", "certificate has expired"), "sts-webpki-invalid"),
        (b"version: STSv2\n", "sts-policy-invalid"),
    ],
)
async def test_a_failure_is_told_and_not_repeated_at_once(world: World, file: bytes | FetchFailure, kind: str) -> None:
    world.publish("1", file)
    answer = await world.store.policy(DOMAIN)
    assert (answer.policy, answer.failure) == (None, kind)
    assert world.reported == [(DOMAIN, kind)]
    assert (await world.store.policy(DOMAIN)).failure == kind
    assert world.fetched == [DOMAIN]
    # each failure of the same id doubles the pause, up to an hour
    rest_s = FAILURE_FIRST_S
    for count in range(2, 8):
        world.clock.advance(rest_s - 1)
        await world.policy()
        assert len(world.fetched) == count - 1
        world.clock.advance(1)
        await world.policy()
        assert len(world.fetched) == count
        rest_s = min(rest_s * 2, FAILURE_LONGEST_S)
    # another id is another file
    world.publish("2", text_of())
    assert await world.policy() == ENFORCE
    assert (world.store.fetched, world.store.failed) == (1, 7)


async def test_all_who_ask_wait_for_one_fetch(world: World) -> None:
    world.publish("1", text_of())
    world.gate.clear()
    asking = [asyncio.ensure_future(world.policy()) for _ in range(5)]
    while not world.fetched:
        await asyncio.sleep(0)
    asking[0].cancel()  # takes the answer away from nobody
    world.gate.set()
    assert await asyncio.gather(*asking[1:]) == [ENFORCE] * 4
    assert world.fetched == [DOMAIN]


async def test_who_has_a_policy_does_not_wait_for_long(world: World) -> None:
    world.start(patience_s=0.01)
    world.publish("1", text_of())
    await world.policy()
    world.publish("2", text_of("none"))
    world.gate.clear()
    assert await world.policy() == ENFORCE
    world.gate.set()
    while (await world.policy()) == ENFORCE:
        await asyncio.sleep(0)
    assert world.fetched == [DOMAIN, DOMAIN]


async def test_a_fetch_has_a_time_limit(world: World) -> None:
    world.start(fetch_timeout_s=0.01, fetches=1)
    world.publish("1", text_of())
    world.publish("1", text_of(), "other.example")
    world.gate.clear()
    late = await world.store.policy(DOMAIN)
    assert (late.policy, late.failure) == (None, "sts-policy-fetch-error")
    async with world.store._slots:  # the other one waits for its turn, in vain: that is not its domain's failure
        untried = await world.store.policy("other.example")
    assert (untried.policy, untried.failure) == (None, None)
    assert world.fetched == [DOMAIN]
    assert world.reported == [(DOMAIN, "sts-policy-fetch-error")]
    world.gate.set()
    assert await world.policy("other.example") is None
    world.clock.advance(BUSY_S)
    assert await world.policy("other.example") == ENFORCE


async def test_what_is_kept_survives_a_restart(world: World) -> None:
    world.publish("1", text_of())
    await world.policy()
    await world.store.close()
    assert (world.folder / "mta-sts.json").stat().st_mode & 0o777 == 0o600
    world.publish("2", DOWN)
    world.dns_down = True
    world.start()
    assert await world.policy() == ENFORCE
    world.clock.advance(WEEK_S)
    world.start()
    assert await world.policy() is None


async def test_run_saves_what_was_fetched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("angarium.delivery.policy_store.SAVE_S", 0.0)
    running = asyncio.ensure_future(world.store.run())
    world.publish("1", text_of())
    await world.policy()
    path = world.folder / "mta-sts.json"
    while not path.exists():
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    (kept,) = json.loads(path.read_text())
    assert (kept["domain"], kept["id"], kept["mode"]) == (DOMAIN, "1", "enforce")


async def test_a_damaged_file_is_kept_aside(world: World, caplog: pytest.LogCaptureFixture) -> None:
    path = world.folder / "mta-sts.json"
    path.write_text("[{")
    world.start()
    assert len(world.store) == 0
    assert "without the policies that were kept" in caplog.text
    assert path.with_suffix(".damaged").read_text() == "[{"
    world.publish("1", text_of())
    assert await world.policy() == ENFORCE


async def test_a_folder_that_cannot_be_written_costs_no_answer(
    world: World, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    world.folder = tmp_path / "missing"
    world.start()
    world.publish("1", text_of())
    assert await world.policy() == ENFORCE
    await world.store.save()
    assert "mta-sts.json cannot be written" in caplog.text
    world.folder.mkdir()
    await world.store.close()
    assert (world.folder / "mta-sts.json").exists()


async def test_a_policy_is_refreshed_once_a_day(world: World) -> None:
    world.publish("1", text_of())
    await world.policy()
    world.clock.advance(DAY_S - 1)
    await world.store.refresh()
    assert len(world.fetched) == 1
    world.clock.advance(1)
    await world.store.refresh()
    assert len(world.fetched) == 2
    # so it lives a week from now
    world.clock.advance(WEEK_S - 1)
    world.dns_down = True
    assert await world.policy() == ENFORCE


async def test_a_short_policy_is_refreshed_at_half_of_its_life(world: World) -> None:
    world.publish("1", text_of(max_age=3600))
    await world.policy()
    world.clock.advance(1799)
    await world.store.refresh()
    assert len(world.fetched) == 1
    world.clock.advance(1)
    await world.store.refresh()
    assert len(world.fetched) == 2


async def test_a_refresh_that_fails_is_logged_and_changes_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.publish("1", text_of())
    await world.policy()
    world.publish("1", DOWN)
    world.clock.advance(DAY_S)
    await world.store.refresh()
    await world.store.refresh()  # not before the pause is over
    assert len(world.fetched) == 2
    assert "example.com: connection refused; the policy that is kept goes on" in caplog.text
    assert (world.store.fetched, world.store.failed, world.store.kept_on) == (1, 0, 1)
    assert await world.policy() == ENFORCE
    world.dns_down = True
    world.clock.advance(DAY_S)
    await world.store.refresh()
    assert len(world.fetched) == 2


async def test_a_refresh_of_mode_none_fails_in_silence(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.publish("1", text_of("none"))
    await world.policy()
    world.publish("1", DOWN)
    world.clock.advance(DAY_S)
    await world.store.refresh()
    assert len(world.fetched) == 2
    assert caplog.text == ""
    assert (world.store.failed, world.store.kept_on) == (1, 0)


async def test_what_nobody_sends_to_is_not_refreshed(world: World) -> None:
    year_s = 365 * DAY_S
    world.publish("1", text_of(max_age=year_s))
    await world.policy()
    world.clock.advance(IDLE_S + 1)
    await world.store.refresh()
    assert len(world.fetched) == 1
    await world.policy()
    await world.store.refresh()
    assert len(world.fetched) == 2


async def test_a_policy_without_a_life_has_a_short_one(world: World) -> None:
    world.publish("1", text_of(max_age=0))
    assert await world.policy() is not None
    assert await world.policy() is not None
    assert len(world.fetched) == 1
    world.clock.advance(LEAST_LIFE_S)
    assert await world.policy() is not None
    assert len(world.fetched) == 2


async def test_a_calendar_that_goes_back_makes_no_policy_immortal(world: World) -> None:
    world.publish("1", text_of())
    await world.policy()
    world.clock.jump(world.clock.now() - 365 * DAY_S)
    world.dns_down = True
    assert await world.policy() == ENFORCE
    world.clock.advance(WEEK_S)
    assert await world.policy() is None


async def test_the_number_of_policies_is_bounded(world: World) -> None:
    world.start(policies=3)
    for i in range(3):
        world.publish("1", text_of(), f"d{i}.example")
        await world.policy(f"d{i}.example")
    await world.policy("d0.example")  # used again
    world.publish("1", text_of(), "d3.example")
    await world.policy("d3.example")
    assert len(world.store) == 3
    world.dns_down = True
    assert await world.policy("d1.example") is None
    assert await world.policy("d0.example") is not None
    await world.store.close()
    world.start(policies=2)
    assert len(world.store) == 2


async def test_their_octets_are_bounded(world: World) -> None:
    world.start(octets=1000)
    for i in range(20):
        world.publish("1", text_of(), f"d{i}.example")
        await world.policy(f"d{i}.example")
    assert 2 <= len(world.store) <= 5
    assert await world.policy("d19.example") is not None
