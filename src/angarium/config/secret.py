"""A secret of the configuration: written there, or in a file, or in the environment. It is never shown.

Input: the text of a key such as `password`. Whoever prints, logs or reports a Secret gets `***`. `read_secret` gives
the secret itself, from where the configuration says that it stands, anew each time: a file may be changed while the
relay runs.

Fails: OSError or ValueError without the secret in its text."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

__all__ = ["Secret", "read_secret", "read_secret_file"]

LONGEST_OCTETS = 65536


class Secret(Struct, frozen=True):
    """A text that no output shows."""

    value: str

    @classmethod
    def parse(cls, text: str) -> Secret:
        """ValueError when it is empty or has a control character."""
        if not text or any(mark in text for mark in "\0\r\n"):
            raise ValueError("expected a text that is not empty and has no line ends")
        return cls(text)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


def read_secret_file(file: str) -> str:
    """The first line of a file, without its line end. It is one line, so that an editor's last newline does no harm."""
    with Path(file).open("rb") as opened:
        octets = opened.read(LONGEST_OCTETS)
    try:
        text = octets.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8") from None
    if not text or "\n" in text:
        raise ValueError(f"{file} is not one line of text")
    return text


def read_secret(inline: Secret | None, file: str | None, variable: str | None) -> str:
    """The secret from the first of the three that is given."""
    if inline is not None:
        return inline.value
    if file is not None:
        return read_secret_file(file)
    found = os.environ.get(variable or "", "")
    if not found:
        raise ValueError(f"the environment variable {variable} is not set")
    return found
