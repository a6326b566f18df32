"""When two log-ins are the same person's.

It is asked in the same way wherever log-ins are compared: in the credentials file, the conditions of routes and
permissions, `{log_in}` in them, the keys of quotas, failures and bans.

Directories compare names without regard to case, to the form in which a letter is written, and to white space around
and within them (RFC 4518), and tell a back end no more than that the password is right. Whoever could choose how to
write their log-in could else choose which permission holds for them, and which limit.

Bounds: MOST_REMEMBERED log-ins and patterns.
"""

from __future__ import annotations

import functools
import unicodedata

from angarium.mail.pattern import TextPattern

__all__ = ["fold_log_in", "fold_pattern"]


MOST_REMEMBERED = 4096


@functools.lru_cache(MOST_REMEMBERED)
def fold_log_in(log_in: str) -> str:
    """The log-in as it compares."""
    return " ".join(_fold(log_in).split())


@functools.lru_cache(MOST_REMEMBERED)
def fold_pattern(pattern: TextPattern) -> TextPattern:
    """A pattern for log-ins that are folded."""
    return TextPattern(tuple(_fold(part.decode()).encode() for part in pattern.parts))


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
