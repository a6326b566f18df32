"""The order in which hosts are tried: shares, and hosts that rest."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from angarium.delivery.host_order import MOST_HOSTS, REST_FIRST_S, REST_LONGEST_S, SLOW_S, TROUBLE_S, HostOrder
from angarium.delivery.target import Host, HostShare, Target, TlsPolicy
from tests.support.clock import FakeClock

A, B, C = (Host(name, f"192.0.2.{number}") for number, name in enumerate("abc", 1))
TLS = TlsPolicy()


def make(seed: int = 1) -> tuple[HostOrder, FakeClock]:
    clock = FakeClock()
    return HostOrder(clock.monotonic, Random(seed)), clock


def fail(order: HostOrder, host: Host) -> None:
    order.began(host, TLS)
    order.failed(host, TLS)


def test_hosts_without_shares_stay_as_they_are() -> None:
    order, _ = make()
    assert order.named(Target((A, B, C))) == [A, B, C]


def test_priorities_are_kept_whatever_the_weights() -> None:
    order, _ = make()
    target = Target((A, B, C), shares=(HostShare(5, 1000), HostShare(1, 1), HostShare(3, 1)))
    assert {tuple(order.named(target)) for _ in range(200)} == {(B, C, A)}


def test_each_place_has_its_share_by_weight() -> None:
    """10,000 connections: a share of 1/2 is off by 0.02 (four standard deviations) less than once in 10,000 seeds."""
    order, _ = make(seed=7)
    target = Target((A, B, C), shares=(HostShare(0, 3), HostShare(0, 2), HostShare(0, 1)))
    orders = Counter(tuple(order.named(target)) for _ in range(10_000))
    first = Counter[Host]()
    for hosts, count in orders.items():
        first[hosts[0]] += count
    for host, share in ((A, 3 / 6), (B, 2 / 6), (C, 1 / 6)):
        assert abs(first[host] / 10_000 - share) < 0.02
    # and when the first is down, the others share in the same proportion
    without_a = Counter(next(host for host in hosts if host is not A) for hosts in orders.elements())
    assert abs(without_a[B] / 10_000 - 2 / 3) < 0.02


def test_a_host_that_failed_goes_behind_the_others_until_its_rest_is_over() -> None:
    order, clock = make()
    fail(order, A)
    assert order.in_order([A, B, C], TLS) == [B, C, A]
    assert order.rests_for(A, TLS) == REST_FIRST_S
    clock.advance(REST_FIRST_S + 0.1)
    assert order.in_order([A, B, C], TLS) == [A, B, C]
    # one connection finds out; the others do not wait for it
    assert order.in_order([A, B, C], TLS) == [B, C, A]


def test_a_host_in_trouble_rests_for_longer_and_is_no_attempt_that_ends() -> None:
    order, clock = make()
    order.began(A, TLS)
    order.in_trouble(A, TLS)
    assert order.rests_for(A, TLS) == pytest.approx(TROUBLE_S)
    assert order.in_order([A, B], TLS) == [B, A]
    clock.advance(SLOW_S + 0.1)
    order.worked(A, TLS)  # a connection that was being opened meanwhile
    assert order.in_order([A, B], TLS) == [A, B]
    for _ in range(10):
        order.in_trouble(A, TLS)
    assert order.rests_for(A, TLS) == pytest.approx(REST_LONGEST_S)


def test_each_failure_in_a_row_makes_the_rest_longer() -> None:
    order, clock = make()
    rests = []
    for _ in range(8):
        fail(order, A)
        rests.append(order.rests_for(A, TLS))
        clock.advance(rests[-1])
    assert rests == [min(REST_FIRST_S * 2**number, REST_LONGEST_S) for number in range(8)]
    order.began(A, TLS)
    order.worked(A, TLS)
    assert order.rests_for(A, TLS) == 0
    fail(order, A)
    assert order.rests_for(A, TLS) == REST_FIRST_S


def test_all_are_tried_when_all_rest_the_first_to_be_over_first() -> None:
    order, clock = make()
    fail(order, B)
    clock.advance(1)
    fail(order, A)
    assert order.in_order([A, B], TLS) == [B, A]


def test_a_host_that_keeps_an_attempt_waiting_is_not_waited_for_by_others() -> None:
    order, clock = make()
    order.began(A, TLS)
    clock.advance(SLOW_S - 0.1)
    assert order.in_order([A, B], TLS) == [A, B]
    clock.advance(0.2)
    assert order.in_order([A, B], TLS) == [B, A]
    order.broke_off(A, TLS)
    assert order.in_order([A, B], TLS) == [A, B]


def test_a_busy_host_that_answers_is_not_slow() -> None:
    order, clock = make()
    order.began(A, TLS)
    for _ in range(10):
        clock.advance(SLOW_S - 1)
        order.began(A, TLS)
        order.worked(A, TLS)  # one of the two; the other goes on waiting
    assert order.in_order([A, B], TLS) == [A, B]


def test_what_fails_under_one_policy_may_do_under_another() -> None:
    order, _ = make()
    fail(order, A)
    assert order.in_order([A, B], TlsPolicy("none")) == [A, B]


def test_no_more_than_so_many_hosts_are_remembered() -> None:
    order, clock = make()
    for number in range(MOST_HOSTS + 5):
        fail(order, Host("h", "192.0.2.1", number))
        clock.advance(0.001)
    assert order.rests_for(Host("h", "192.0.2.1", 4), TLS) == 0
    assert order.rests_for(Host("h", "192.0.2.1", 5), TLS) > 0
    assert order.rests_for(Host("h", "192.0.2.1", MOST_HOSTS + 4), TLS) > 0
