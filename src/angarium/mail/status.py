"""The vocabulary of what becomes of a recipient: enhanced status codes and recipient states.

An EnhancedStatus is a tuple of three numbers (RFC 3463 §2), which is also how the compiled core gives it. Their names
are those of the registry that RFC 5248 set up.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

__all__ = ["EnhancedStatus", "RecipientState"]

_TEXT = re.compile(r"([245])\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})", re.ASCII)


class RecipientState(IntEnum):
    """What a recipient of a queued message is; the numbers are those of the journal."""

    QUEUED = 0
    DELIVERED = 1
    DEFERRED = 2
    FAILED = 3
    EXPIRED = 4
    IN_DOUBT = 5

    @property
    def word(self) -> str:
        """As it is written in JSON, in the event log and on the command line."""
        return self.name.lower()

    @property
    def is_final(self) -> bool:
        """Whether nothing is left to do for the recipient."""
        return self in _FINAL


_FINAL = frozenset({RecipientState.DELIVERED, RecipientState.FAILED, RecipientState.EXPIRED})


class EnhancedStatus(NamedTuple):
    """class.subject.detail: 2 success, 4 persistent transient failure, 5 permanent failure."""

    class_: int
    subject: int
    detail: int

    @classmethod
    def parse(cls, text: str) -> EnhancedStatus:
        """From "5.1.1"; ValueError for anything that RFC 3463 §2 does not allow."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not an enhanced status code")
        return cls(int(match[1]), int(match[2]), int(match[3]))

    @classmethod
    def of_reply(cls, code: int, enhanced: tuple[int, int, int] | None) -> EnhancedStatus:
        """What a reply says; X.0.0 when it says nothing (RFC 3463 §3.1). A code that is no reply's counts as 4yz."""
        if enhanced is not None:
            return cls(*enhanced)
        first = code // 100
        return cls(first if first in {2, 5} else 4, 0, 0)

    def with_class(self, class_: int) -> EnhancedStatus:
        """The same, but lasting, or passing."""
        return self._replace(class_=class_)

    @property
    def meaning(self) -> str:
        """The registered name of subject and detail, the subject's alone for a detail that is not known here."""
        return _MEANINGS.get((self.subject, self.detail)) or _SUBJECTS.get(self.subject, "Other undefined status")

    def __str__(self) -> str:
        return f"{self.class_}.{self.subject}.{self.detail}"


# RFC 3463 §3, and the IANA registry "SMTP Enhanced Status Codes" (RFC 5248)
_SUBJECTS = {
    0: "Other undefined status",
    1: "Other address status",
    2: "Other or undefined mailbox status",
    3: "Other or undefined mail system status",
    4: "Other or undefined network or routing status",
    5: "Other or undefined protocol status",
    6: "Other or undefined media error",
    7: "Other or undefined security status",
}
_MEANINGS = {
    (1, 1): "Bad destination mailbox address",
    (1, 2): "Bad destination system address",
    (1, 3): "Bad destination mailbox address syntax",
    (1, 4): "Destination mailbox address ambiguous",
    (1, 5): "Destination address valid",
    (1, 6): "Destination mailbox has moved, no forwarding address",
    (1, 7): "Bad sender's mailbox address syntax",
    (1, 8): "Bad sender's system address",
    (1, 9): "Message relayed to non-compliant mailer",
    (1, 10): "Recipient address has null MX",
    (2, 1): "Mailbox disabled, not accepting messages",
    (2, 2): "Mailbox full",
    (2, 3): "Message length exceeds administrative limit",
    (2, 4): "Mailing list expansion problem",
    (3, 1): "Mail system full",
    (3, 2): "System not accepting network messages",
    (3, 3): "System not capable of selected features",
    (3, 4): "Message too big for system",
    (3, 5): "System incorrectly configured",
    (3, 6): "Requested priority was changed",
    (4, 1): "No answer from host",
    (4, 2): "Bad connection",
    (4, 3): "Directory server failure",
    (4, 4): "Unable to route",
    (4, 5): "Mail system congestion",
    (4, 6): "Routing loop detected",
    (4, 7): "Delivery time expired",
    (5, 1): "Invalid command",
    (5, 2): "Syntax error",
    (5, 3): "Too many recipients",
    (5, 4): "Invalid command arguments",
    (5, 5): "Wrong protocol version",
    (5, 6): "Authentication exchange line is too long",
    (6, 1): "Media not supported",
    (6, 2): "Conversion required and prohibited",
    (6, 3): "Conversion required but not supported",
    (6, 4): "Conversion with loss performed",
    (6, 5): "Conversion failed",
    (6, 6): "Message content not available",
    (6, 7): "Non-ASCII addresses not permitted for that sender or recipient",
    (6, 8): "UTF-8 string reply is required, but not permitted by the client",
    (6, 9): "UTF-8 header message cannot be transferred to one or more recipients",
    (7, 1): "Delivery not authorized, message refused",
    (7, 2): "Mailing list expansion prohibited",
    (7, 3): "Security conversion required but not possible",
    (7, 4): "Security features not supported",
    (7, 5): "Cryptographic failure",
    (7, 6): "Cryptographic algorithm not supported",
    (7, 7): "Message integrity failure",
    (7, 8): "Authentication credentials invalid",
    (7, 9): "Authentication mechanism is too weak",
    (7, 10): "Encryption needed",
    (7, 11): "Encryption required for requested authentication mechanism",
    (7, 12): "A password transition is needed",
    (7, 13): "User account disabled",
    (7, 14): "Trust relationship required",
    (7, 15): "Priority level is too low",
    (7, 16): "Message is too big for the specified priority",
    (7, 17): "Mailbox owner has changed",
    (7, 18): "Domain owner has changed",
    (7, 19): "RRVS test cannot be completed",
    (7, 20): "No passing DKIM signature found",
    (7, 21): "No acceptable DKIM signature found",
    (7, 22): "No valid author-matched DKIM signature found",
    (7, 23): "SPF validation failed",
    (7, 24): "SPF validation error",
    (7, 25): "Reverse DNS validation failed",
    (7, 26): "Multiple authentication checks failed",
    (7, 27): "Sender address has null MX",
    (7, 28): "Mail flood detected",
    (7, 29): "ARC validation failure",
    (7, 30): "REQUIRETLS support required",
}
