"""Failures of clients and log-ins: delays that grow, bans that end, and whom they do not meet."""

from __future__ import annotations

from typing import Any

import pytest

from angarium.config.address import Network
from angarium.config.credentials import Access
from angarium.policy import failure_table
from angarium.policy.failure_table import FailureTable, client_of
from tests.support.clock import FakeClock

ADDRESS, OTHER = "192.0.2.1", "198.51.100.9"


def table_of(clock: FakeClock | None = None, **access: Any) -> FailureTable:
    return FailureTable(Access(**access), (clock or FakeClock()).monotonic)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unknown", ""),
    ],
)
def test_what_counts_as_one_client(address: str, client: str) -> None:
    assert client_of(address) == client


def test_the_delay_doubles_up_to_the_longest() -> None:
    table = table_of(delay_s=1.0, longest_delay_s=5.0, address_failures=100, log_in_failures=100)
    delays = [table.failed(ADDRESS, f"user{number}", exists=True)[0] for number in range(5)]
    assert delays == [1, 2, 4, 5, 5]
    assert table.failed(OTHER, "user", exists=True)[0] == 1


def test_a_log_in_that_many_addresses_try_is_delayed_too() -> None:
    table = table_of(address_failures=100, log_in_failures=100)
    delays = [table.failed(f"192.0.2.{number}", "User", exists=True)[0] for number in range(1, 4)]
    assert delays == [1, 2, 4]


def test_a_ban_begins_at_the_limit_and_ends_with_its_time() -> None:
    clock = FakeClock()
    table = table_of(clock, address_failures=3, ban_s=60.0)
    begun = [ban for _ in range(3) for ban in table.failed(ADDRESS, "user", exists=True)[1]]
    assert [(ban.kind, ban.of, ban.failures, ban.left_s) for ban in begun] == [("address", ADDRESS, 3, 60.0)]
    assert table.banned(ADDRESS, "anybody")
    assert not table.banned(OTHER, "anybody")
    clock.advance(59)
    assert [(ban.of, ban.left_s) for ban in table.bans()] == [(ADDRESS, 1.0)]
    clock.advance(1)
    assert not table.banned(ADDRESS, "anybody")
    assert table.bans() == []


def test_who_has_no_address_is_banned_by_log_in_alone() -> None:
    table = table_of(address_failures=2, log_in_failures=3)
    delays = [table.failed("", "boss", exists=True)[0] for _ in range(3)]
    assert delays == [1, 2, 4]
    assert table.banned("", "boss")
    assert not table.banned("", "somebody else")


def test_who_goes_first() -> None:
    table = table_of(trusted_networks=(Network.parse("203.0.113.0/24"),))
    table.succeeded(ADDRESS, "boss")
    table.failed(ADDRESS, "other", exists=True)
    assert table.rank(ADDRESS, "boss") == table.rank("203.0.113.7", "boss") == 0
    assert table.rank(OTHER, "boss") == 1
    assert table.rank(ADDRESS, "other") == 2


def test_a_slash_64_is_one_client() -> None:
    table = table_of(address_failures=2)
    table.failed("2001:db8::1", "a", exists=True)
    table.failed("2001:db8::2", "b", exists=True)
    assert table.banned("2001:db8::3", "")
    assert not table.banned("2001:db8:0:1::3", "")


def test_who_fails_now_and_then_is_never_banned() -> None:
    clock = FakeClock()
    table = table_of(clock, address_failures=20, window_s=3600.0)
    for _ in range(200):
        assert table.failed(ADDRESS, "device", exists=True)[1] == []
        clock.advance(200)  # 18 an hour


def test_a_ban_of_a_log_in_leaves_those_in_who_have_shown_that_they_know_it() -> None:
    table = table_of(log_in_failures=3, address_failures=100)
    table.succeeded(ADDRESS, "boss")
    for number in range(1, 4):
        table.failed(f"198.51.100.{number}", "boss", exists=True)
    assert table.banned(OTHER, "boss")
    assert table.banned(OTHER, "BOSS")
    assert not table.banned(ADDRESS, "boss")
    assert not table.banned(OTHER, "somebody else")


def test_the_failures_of_who_knows_a_log_in_do_not_ban_it_for_others() -> None:
    table = table_of(log_in_failures=3, address_failures=100)
    table.succeeded(ADDRESS, "boss")
    for _ in range(5):
        table.failed(ADDRESS, "boss", exists=True)
    assert not table.banned(OTHER, "boss")


def test_a_success_does_not_clear_the_client() -> None:
    table = table_of(address_failures=3)
    table.failed(ADDRESS, "a", exists=True)
    table.failed(ADDRESS, "b", exists=True)
    table.succeeded(ADDRESS, "mine")
    table.failed(ADDRESS, "c", exists=True)
    assert table.banned(ADDRESS, "mine")


def test_trusted_networks_are_neither_delayed_nor_banned() -> None:
    table = table_of(trusted_networks=(Network.parse("192.0.2.0/24"),), address_failures=1, log_in_failures=1)
    assert table.failed(ADDRESS, "user", exists=True) == (0.0, [])
    assert not table.banned(ADDRESS, "user")
    assert not table.banned(OTHER, "user")
    assert table.delay_s(ADDRESS) == 0
    assert not table.trusts("")


def test_the_name_of_a_log_in_that_nobody_knows_is_not_shown() -> None:
    table = table_of(log_in_failures=1, address_failures=100)
    (hidden,) = table.failed(ADDRESS, "hunter2", exists=False)[1]
    (shown,) = table.failed(ADDRESS, "boss", exists=True)[1]
    assert hidden.of.startswith("#")
    assert "hunter2" not in hidden.of
    assert shown.of == "boss"


@pytest.mark.parametrize("by", ["192.0.2.1", "::ffff:192.0.2.1"])
def test_a_ban_of_an_address_is_lifted(by: str) -> None:
    table = table_of(address_failures=1, log_in_failures=100)
    table.failed(ADDRESS, "user", exists=True)
    assert [ban.of for ban in table.lift(by)] == [ADDRESS]
    assert not table.banned(ADDRESS, "user")
    assert table.failed(ADDRESS, "other", exists=True)[0] == 1
    assert table.lift("203.0.113.7") == []


def test_bans_are_lifted_by_what_is_shown_of_them() -> None:
    table = table_of(address_failures=100, log_in_failures=1)
    (hidden,) = table.failed(ADDRESS, "hunter2", exists=False)[1]
    table.failed(ADDRESS, "boss", exists=True)
    assert [ban.of for ban in table.lift("boss")] == ["boss"]
    assert [ban.of for ban in table.lift(hidden.of)] == [hidden.of]
    table.failed("2001:db8::1", "a", exists=True)
    table = table_of(address_failures=1)
    table.failed("2001:db8::1", "a", exists=True)
    assert [ban.of for ban in table.lift("2001:db8::/64")] == ["2001:db8::/64"]


def test_all_bans_are_lifted() -> None:
    table = table_of(address_failures=1, log_in_failures=1)
    table.failed(ADDRESS, "a", exists=True)
    table.failed(OTHER, "b", exists=True)
    assert len(table.lift("*")) == 4
    assert table.bans() == []


def test_the_table_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_table, "MOST_ENTRIES", 3)
    monkeypatch.setattr(failure_table, "MOST_KNOWN", 2)
    table = table_of(address_failures=1, log_in_failures=100)
    for number in range(1, 6):
        table.failed(f"192.0.2.{number}", "user", exists=True)
        table.succeeded(f"192.0.2.{number}", "user")
    assert [ban.of for ban in table.bans()] == ["192.0.2.3", "192.0.2.4", "192.0.2.5"]
