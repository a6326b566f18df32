"""What is kept of how a connection was opened: everything but secrets, within a bound."""

from __future__ import annotations

import pytest

from angarium.delivery.opening import MOST_OCTETS, Opening


def said(*steps: bytes | tuple[int, str]) -> list[str]:
    opening = Opening()
    for step in steps:
        if isinstance(step, bytes):
            opening.command(step)
        else:
            opening.reply(*step)
    return opening.octets().decode().splitlines()


def test_commands_and_replies_of_several_lines() -> None:
    assert said((220, "mx ESMTP"), b"EHLO relay", (250, "mx\nSIZE 9")) == [
        "S: 220 mx ESMTP",
        "C: EHLO relay",
        "S: 250-mx",
        "S: 250 SIZE 9",
    ]


@pytest.mark.parametrize(
    "answers", [[(235, "2.7.0 hunter2")], [(334, ""), b"aHVudGVyMg==", (535, "5.7.8 aHVudGVyMg==")]]
)
@pytest.mark.parametrize("first", [b"AUTH PLAIN AGEAaHVudGVyMg==", b"AUTH LOGIN", b"auth xoauth2 dXNlcj1h"])
def test_secrets_never(first: bytes, answers: list[bytes | tuple[int, str]]) -> None:
    lines = said(first, *answers, b"MAIL FROM:<a@b>", (250, "ok"))
    text = "\n".join(lines)
    assert "hunter2" not in text
    assert "aHVudGVyMg" not in text
    assert "dXNlcj1h" not in text
    assert lines[0].upper().startswith(f"C: AUTH {first.split()[1].decode().upper()}")
    assert lines[-2:] == ["C: MAIL FROM:<a@b>", "S: 250 ok"]
    assert any(line.startswith(("S: 235 2.7.0 ***", "S: 535 5.7.8 ***")) for line in lines)


def test_a_password_behind_a_refused_mechanism_is_no_line_of_an_exchange_and_is_not_sent() -> None:
    assert said(b"AUTH LOGIN", (504, "5.5.4 no"), b"QUIT", (221, "bye")) == [
        "C: AUTH LOGIN",
        "S: 504 5.5.4 ***",
        "C: QUIT",
        "S: 221 bye",
    ]


def test_the_bound() -> None:
    opening = Opening()
    for _ in range(1000):
        opening.reply(250, "x" * 400)
    assert len(opening.octets()) < MOST_OCTETS + 600
    assert opening.octets().endswith(b"*: and more")
