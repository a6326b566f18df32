"""What a notification tells: values, and who wants to hear it.

A report is about one recipient of one message. Its kind says what happened; the Action of RFC 3464 §2.3.3 follows from
it. `is_wanted` is the table of RFC 3461 §4.1 and §5.2: the rows are the values of NOTIFY, the columns the kinds.

    NOTIFY              failed, expired    delayed    relayed, delivered, expanded
    (none)              told               told       -
    NEVER               -                  -          -
    SUCCESS             -                  -          told
    FAILURE             told               -          -
    DELAY               -                  told       -

A list of keywords is told what each of them is. A host that offers DSN was passed NOTIFY, and tells of success itself:
then there is no report. Nothing here fails but a delay without the time at which it ends (ValueError).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from angarium._core.command import Notify, ReturnContent

if TYPE_CHECKING:
    from angarium.mail.status import EnhancedStatus

__all__ = ["Kind", "OriginalMessage", "RecipientReport", "is_success", "is_wanted", "printable"]

Kind = Literal["failed", "expired", "delayed", "relayed", "delivered", "expanded"]

_ASKED_BY: dict[Kind, int] = {
    "failed": Notify.NOTIFY_FAILURE,
    "expired": Notify.NOTIFY_FAILURE,
    "delayed": Notify.NOTIFY_DELAY,
    "relayed": Notify.NOTIFY_SUCCESS,
    "delivered": Notify.NOTIFY_SUCCESS,
    "expanded": Notify.NOTIFY_SUCCESS,
}
_UNASKED = Notify.NOTIFY_FAILURE | Notify.NOTIFY_DELAY


@dataclass(frozen=True, slots=True)
class OriginalMessage:
    """The message that is reported on. Envelope texts are octets as they came; `received` is in unix seconds."""

    queue_id: str
    reverse_path: bytes
    mail_data: bytes
    received: float
    envid: bytes = b""
    ret: int = ReturnContent.RET_UNSTATED
    smtputf8: bool = False


@dataclass(frozen=True, slots=True)
class RecipientReport:
    """What became of one recipient.

    `remote_mta` is the name of the host that the reply (code, enhanced status if it had one, text) comes from; empty
    when no host said anything: then the text is this relay's own. `retries_until` (unix seconds) is when a delayed
    recipient will be given up.
    """

    forward_path: bytes
    kind: Kind
    status: EnhancedStatus
    text: bytes
    reply_code: int = 0
    reply_enhanced: tuple[int, int, int] | None = None
    remote_mta: bytes = b""
    orcpt: bytes = b""
    notify: int = 0
    last_attempt: float | None = None
    retries_until: float | None = None

    def __post_init__(self) -> None:
        if self.kind == "delayed" and self.retries_until is None:
            raise ValueError("a delay is reported with the time until which it is tried again")

    @property
    def action(self) -> str:
        """RFC 3464 §2.3.3; what has expired has failed."""
        return "failed" if self.kind == "expired" else self.kind

    @property
    def is_reply(self) -> bool:
        """Whether a host said this."""
        return bool(self.remote_mta and self.reply_code)


def is_wanted(kind: Kind, notify: int) -> bool:
    """Whether a recipient's NOTIFY (bits of Notify, 0: it had none) asks for such a report."""
    return bool((notify or _UNASKED) & _ASKED_BY[kind])


def is_success(kind: Kind) -> bool:
    """Whether the recipient needs nothing more."""
    return _ASKED_BY[kind] == Notify.NOTIFY_SUCCESS


def printable(octets: bytes, utf8: bool) -> bytes:
    """One line of printable text: UTF-8 where it may be, ASCII elsewhere, "?" for everything else."""
    text = octets.decode("utf-8" if utf8 else "ascii", "replace")
    return "".join(
        character if character.isprintable() and character != "\ufffd" else "?" for character in text
    ).encode()
