"""Outcome records: what one attempt came to; documented in cext/outcome_record.pyx."""

from typing import Final, NamedTuple, Never

MOST_KEPT: Final = 16
MOST_TEXT: Final = 1000
MOST_NAME: Final = 255

class Outcome(NamedTuple):
    """One outcome record: (part of) what one attempt came to. Times are unix seconds, 0 for none.

    source, pool: by what it left, where that was a source of the configuration.
    """

    attempted: float
    attempt: int
    attempts: int
    next_attempt: float
    next_hop: bytes
    host: bytes
    entries: list[tuple[int, int, int, bytes]]
    source: bytes = ...
    pool: bytes = ...

def encode_outcome(
    attempts: int,
    next_attempt: float,
    entries: list[tuple[int, int, int, bytes]],
    *args: Never,
    attempted: float = 0.0,
    attempt: int | None = None,
    next_hop: bytes = b"",
    host: bytes = b"",
    previous: tuple[int, int] = (0, 0),
    ended: tuple[int, int, int] = (0, 0, 0),
    source: bytes = b"",
    pool: bytes = b"",
) -> bytes:
    """The body of an outcome record.

    entries: [(recipient index, RecipientState, reply code, text)]; previous: (serial, offset) of the message's outcome
    record before; ended: how many recipients this record says (delivered, failed, expired) of for the first time.
    """

def decode_outcome(body: bytes) -> Outcome:
    """What a body of encode_outcome says; RecordError when it is not whole."""

def previous_of(body: bytes) -> tuple[int, int]:
    """(serial, offset) of the outcome record before that one; (0, 0) for the first."""

__test__: dict[str, str]
