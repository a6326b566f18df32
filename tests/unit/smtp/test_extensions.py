"""What an EHLO reply says of limits, whoever wrote it."""

from __future__ import annotations

import pytest

from angarium.smtp.extensions import limit_of, lowest, number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1000", 1000),
        (" 1000 ", 1000),
        ("0", 0),
        ("", 0),
        ("-1", 0),
        ("1e3", 0),
        ("ten", 0),
        ("\u0661\u0660", 0),  # digits, but not of ASCII
        ("18446744073709551615", 2**64 - 1),
        ("99999999999999999999", 2**64 - 1),  # RFC 1870 §3: up to 20 digits
        ("100000000000000000000", 0),
    ],
)
def test_a_number(text: str, expected: int) -> None:
    assert number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RCPTMAX=20 MAILMAX=5", 20),
        ("rcptmax=20", 20),
        ("MAILMAX=5", 0),
        ("RCPTMAX=4294967296", 2**32 - 1),
        ("RCPTMAX=99999999999999999999", 2**32 - 1),
        ("RCPTMAX", 0),
        ("RCPTMAX=x", 0),
        ("", 0),
    ],
)
def test_a_limit(text: str, expected: int) -> None:
    assert limit_of(text, "RCPTMAX") == expected


def test_the_lowest_limit_is_one_that_is_there() -> None:
    assert lowest(0, 7, 3) == 3
    assert lowest(0, 0) == 0
