"""When two log-ins are the same person's.

Directories compare names without regard to case, to the form in which a letter is written, and to white space around
and within them (RFC 4518), and tell a back end no more than that the password is right. Whoever could choose how to
write their log-in could else choose which permission holds for them, and which limit.
"""

from __future__ import annotations

import unicodedata

from angarium.mail.pattern import TextPattern

__all__ = ["fold_log_in", "fold_pattern"]


def fold_log_in(log_in: str) -> str:
    """The log-in as it compares."""
    return " ".join(_fold(log_in).split())


def fold_pattern(pattern: TextPattern) -> TextPattern:
    """A pattern for log-ins that are folded."""
    return TextPattern(tuple(_fold(part.decode()).encode() for part in pattern.parts))


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
