"""The durability class that a message gets: what it asks for, between floor and ceiling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium._core.client_terms import ClientTerms
from angarium._core.record import MessageFlag

NAMES = [b"fsync", b"async", b"memory"]  # the strongest first


@pytest.mark.parametrize("own", range(3))
@pytest.mark.parametrize("floor", [None, 0, 1, 2])
@pytest.mark.parametrize("ceiling", [None, 0, 1, 2])
@pytest.mark.parametrize("asked", [*NAMES, b"FSync", b"", b"fsyncc", b"fsyn", b"none"])
def test_the_class_is_between_floor_and_ceiling(own: int, floor: int | None, ceiling: int | None, asked: bytes) -> None:
    weakest = own if floor is None else floor
    strongest = 0 if ceiling is None else ceiling
    if not strongest <= own <= weakest:
        with pytest.raises(ValueError, match="is not between"):
            ClientTerms(durability=own, durability_floor=floor, durability_ceiling=ceiling)
        return
    terms = ClientTerms(durability=own, durability_floor=floor, durability_ceiling=ceiling)
    wanted = NAMES.index(asked.lower()) if asked.lower() in NAMES else own
    assert terms.asked(asked) == sorted((strongest, wanted, weakest))[1]


@given(st.binary(max_size=10))
def test_what_names_no_class_asks_for_nothing(value: bytes) -> None:
    terms = ClientTerms(durability=1, durability_floor=2)
    if value.lower() not in NAMES:
        assert terms.asked(value) == 1


def test_by_default_a_message_may_only_ask_for_more() -> None:
    terms = ClientTerms(durability=1)
    assert [terms.asked(name) for name in NAMES] == [0, 1, 1]


def test_flags() -> None:
    assert ClientTerms().flags == 0
    assert ClientTerms(bulk=True).flags == MessageFlag.MESSAGE_BULK
