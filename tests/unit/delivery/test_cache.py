"""The table of answers: bounded, and a tail of names passes through it without taking the place of the known ones."""

from __future__ import annotations

from angarium.delivery.cache import Cache


def test_a_tail_leaves_what_is_asked_for_again() -> None:
    cache: Cache[str, int] = Cache(100)
    known = [f"known{number}" for number in range(80)]
    for name in known:
        cache.put(name, 1)
        assert cache.use(name) == 1
    for number in range(10_000):
        cache.put(f"tail{number}", 2)
    assert [name for name in known if cache.peek(name) is None] == []
    assert len(cache) == 100
    assert cache.peek("tail9999") == 2
    assert cache.peek("tail9979") is None, "a fifth is left to those that were asked for once"


def test_a_renewed_answer_is_a_known_one() -> None:
    cache: Cache[str, int] = Cache(10)
    cache.put("a", 1)
    cache.put("a", 2)
    for number in range(100):
        cache.put(f"tail{number}", 0)
    assert cache.peek("a") == 2


def test_of_the_known_ones_the_one_used_longest_ago_goes() -> None:
    cache: Cache[str, int] = Cache(10)
    for number in range(12):
        cache.put(f"k{number}", number)
        cache.use(f"k{number}")
        cache.use("k0")
    assert len(cache) == 10
    assert cache.peek("k0") == 0
    assert cache.peek("k1") is None


def test_a_table_that_is_full_of_known_ones_takes_new_ones() -> None:
    cache: Cache[str, int] = Cache(2)
    for name in ("a", "b", "a", "c", "c"):
        if cache.use(name) is None:
            cache.put(name, 1)
    assert cache.peek("c") == 1
    assert len(cache) <= 2
