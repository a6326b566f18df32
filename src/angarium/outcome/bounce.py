"""Delivery status notifications: what the sender is told about mail that failed or is late.

Job: `build_dsn` composes the whole message: multipart/report (RFC 6522) of a text for people, a message/delivery-status
(RFC 3464) for programs, and the original message or its header section. Input: values only; time, message id and host
name are passed in. Output: octets ready for the queue, with the null reverse-path (RFC 5321 §4.5.5, RFC 3461 §6.1).

There is none (None is returned) for a message that came with the null reverse-path, and none about a recipient who did
not ask for it: NOTIFY=NEVER, NOTIFY without FAILURE for a failure, NOTIFY without DELAY for a delay (RFC 3461 §4.1).
A recipient without NOTIFY gets both.

The original is returned whole when RET=FULL or nothing was asked for, something failed, and it is not larger than
`longest_original_octets`; else its header section alone, cut at a line end after LONGEST_HEADER octets.

The header of the notification is ASCII unless the reverse-path is not. Where addresses or the original's header are
UTF-8, the parts take the forms of RFC 6533. Texts from outside (replies, ENVID, ORCPT) can hold anything: what is not
printable becomes "?", and none of them can end a line. ValueError: envid or orcpt is not xtext.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Literal

from angarium._core.command import Notify, ReturnContent, decode_xtext
from angarium._core.header import HeaderWalk

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from angarium.mail.status import EnhancedStatus

__all__ = ["DeliveryStatusNotification", "OriginalMessage", "RecipientReport", "build_dsn"]

Action = Literal["failed", "delayed"]

LONGEST_ORIGINAL = 50_000
LONGEST_HEADER = 50_000
LONGEST_TEXT = 900  # of one reply, in octets
FOLD_AT = 76  # octets of a line, where there is a space to fold at
LONGEST_MESSAGE_ID = 250
LONGEST_LINE = 990  # RFC 5322 §2.1.1: 998; a word without spaces is cut here


_MESSAGE_ID = re.compile(rb"<[!-~]+>")


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
    when no host said anything: then the text is this relay's own.
    """

    forward_path: bytes
    action: Action
    status: EnhancedStatus
    text: bytes
    reply_code: int = 0
    reply_enhanced: tuple[int, int, int] | None = None
    remote_mta: bytes = b""
    orcpt: bytes = b""
    notify: int = 0
    last_attempt: float | None = None
    retries_until: float | None = None


@dataclass(frozen=True, slots=True)
class DeliveryStatusNotification:
    """A message to be queued. `eight_bit`: it needs 8BITMIME; `smtputf8`: it needs SMTPUTF8."""

    reverse_path: bytes
    recipient: bytes
    mail_data: bytes
    eight_bit: bool
    smtputf8: bool


def build_dsn(
    original: OriginalMessage,
    reports: Iterable[RecipientReport],
    *,
    hostname: str,
    now: float,
    message_id: str,
    longest_original_octets: int = LONGEST_ORIGINAL,
) -> DeliveryStatusNotification | None:
    """The notification about those recipients of original who want one; None when there is nobody to tell.

    `message_id` is unique and without angle brackets: `local@domain`.
    """
    wanted = [report for report in reports if _is_wanted(report)]
    if not original.reverse_path or not wanted:
        return None
    failed = any(report.action == "failed" for report in wanted)
    walk = HeaderWalk(original.mail_data)
    whole = failed and original.ret != ReturnContent.RET_HDRS and len(original.mail_data) <= longest_original_octets
    addresses = [report.forward_path for report in wanted] + [_original_recipient(report) for report in wanted]
    is_global = original.smtputf8 and not all(address.isascii() for address in [*addresses, original.reverse_path])
    parts = [
        _people_part(original, wanted, hostname, is_global),
        _program_part(original, wanted, hostname, is_global),
        _original_part(original, walk.length, whole),
    ]
    eight_bit = not all(part.isascii() for part in parts)
    boundary = _boundary(message_id, parts)
    header = [
        ("From", f"Mail delivery <postmaster@{hostname}>".encode()),
        ("To", b"<" + _printable(original.reverse_path, True) + b">"),
        ("Subject", b"Your mail could not be delivered" if failed else b"Your mail is delayed"),
        ("Date", _date(now)),
        ("Message-ID", f"<{message_id}>".encode()),
        *_references(walk.message_id),
        ("Auto-Submitted", b"auto-replied"),  # RFC 3834 §5
        ("MIME-Version", b"1.0"),
        ("Content-Type", b'multipart/report; report-type=delivery-status; boundary="' + boundary + b'"'),
        ("Content-Transfer-Encoding", b"8bit" if eight_bit else b"7bit"),
    ]
    mail_data = b"".join(
        [
            *(_field(name, value) for name, value in header),
            b"\r\nThis is a delivery status notification in MIME format (RFC 3464).\r\n",
            *(b"\r\n--" + boundary + b"\r\n" + part for part in parts),
            b"\r\n--" + boundary + b"--\r\n",
        ]
    )
    return DeliveryStatusNotification(
        b"", original.reverse_path, mail_data, eight_bit, smtputf8=not original.reverse_path.isascii()
    )


def _is_wanted(report: RecipientReport) -> bool:
    if report.notify == 0:
        return True
    return bool(report.notify & (Notify.NOTIFY_FAILURE if report.action == "failed" else Notify.NOTIFY_DELAY))


# ---------------------------------------------------------------------- the parts


def _people_part(
    original: OriginalMessage, reports: Sequence[RecipientReport], hostname: str, is_global: bool
) -> bytes:
    lines = [
        f"This is the mail relay {hostname}.".encode(),
        b"",
        b"Your message of " + _date(original.received) + b" (queue id " + original.queue_id.encode() + b")",
    ]
    for action, what in (
        ("failed", b"could not be delivered to:"),
        ("delayed", b"has not been delivered yet to:"),
    ):
        chosen = [report for report in reports if report.action == action]
        if not chosen:
            continue
        lines += [what]
        for report in chosen:
            who = b"  <" + _printable(report.forward_path, is_global) + b">"
            said = _text_of(report, is_global)
            host = b"    " + _printable(report.remote_mta, False) + b" said:" if report.remote_mta else b"    Reason:"
            lines += [b"", *_wrap(who, b"  "), host, *_wrap(b"    " + said, b"    ")]
            lines += [f"    ({report.status}: {report.status.meaning})".encode()]
        if action == "failed":
            lines += [b"", b"It will not be tried again."]
        else:
            ends = [report.retries_until for report in chosen if report.retries_until is not None]
            until = b", until " + _date(max(ends)) if ends else b""
            lines += [b"", b"It will be tried again" + until + b". There is no need to send it again."]
    lines += [b"", b"Details for programs and the original message, or its header, are attached."]
    body = b"\r\n".join(lines) + b"\r\n"
    charset, encoding = (b"us-ascii", b"7bit") if body.isascii() else (b"utf-8", b"8bit")
    return (
        b"Content-Type: text/plain; charset=" + charset + b"\r\nContent-Description: Notification\r\n"
        b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n" + body
    )


def _program_part(
    original: OriginalMessage, reports: Sequence[RecipientReport], hostname: str, is_global: bool
) -> bytes:
    """RFC 3464 §2, and RFC 6533 §4 where an address is not ASCII."""
    groups = [[("Reporting-MTA", f"dns; {hostname}".encode())]]
    if original.envid:
        groups[0].append(("Original-Envelope-Id", _printable(decode_xtext(original.envid), False)))
    groups[0].append(("Arrival-Date", _date(original.received)))
    for report in reports:
        fields: list[tuple[str, bytes]] = []
        orcpt = _original_recipient(report)
        if orcpt:
            fields.append(("Original-Recipient", _printable(orcpt, is_global)))
        kind = b"rfc822; " if report.forward_path.isascii() else b"utf-8; "
        fields += [
            ("Final-Recipient", kind + _printable(report.forward_path, is_global)),
            ("Action", report.action.encode()),
            ("Status", str(report.status).encode()),
        ]
        if report.remote_mta:
            fields.append(("Remote-MTA", b"dns; " + _printable(report.remote_mta, False)))
        # without a reply there is no SMTP diagnostic to quote: a type of our own (RFC 3464 §2.1.2)
        fields.append(
            ("Diagnostic-Code", (b"smtp; " if _is_reply(report) else b"X-Angarium; ") + _text_of(report, False))
        )
        if report.last_attempt is not None:
            fields.append(("Last-Attempt-Date", _date(report.last_attempt)))
        if report.action == "delayed" and report.retries_until is not None:
            fields.append(("Will-Retry-Until", _date(report.retries_until)))
        groups.append(fields)
    body = b"\r\n".join(b"".join(_field(name, value) for name, value in group) for group in groups)
    content_type = b"message/global-delivery-status" if is_global else b"message/delivery-status"
    encoding = b"7bit" if body.isascii() else b"8bit"
    return (
        b"Content-Type: " + content_type + b"\r\nContent-Description: Delivery report\r\n"
        b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n" + body
    )


def _original_part(original: OriginalMessage, header_length: int, whole: bool) -> bytes:
    header = original.mail_data[:header_length]
    is_global = original.smtputf8 and not header.isascii()
    if whole:
        content = original.mail_data
        content_type = b"message/global" if is_global else b"message/rfc822"
    else:
        content = header
        if len(content) > LONGEST_HEADER:
            content = content[: content.rfind(b"\r\n", 0, LONGEST_HEADER) + 2]
        content_type = b"message/global-headers" if is_global else b"text/rfc822-headers"
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    return (
        b"Content-Type: "
        + content_type
        + b"\r\nContent-Description: Undelivered message"
        + (b"" if whole else b" header")
        + b"\r\nContent-Transfer-Encoding: "
        + (b"7bit" if content.isascii() else b"8bit")
        + b"\r\n\r\n"
        + content
    )


# ---------------------------------------------------------------------- texts


def _original_recipient(report: RecipientReport) -> bytes:
    """ORCPT as Original-Recipient wants it: the address without its xtext (RFC 3464 §2.3.1)."""
    kind, semicolon, address = report.orcpt.partition(b";")
    return kind + b"; " + decode_xtext(address) if semicolon else b""


def _is_reply(report: RecipientReport) -> bool:
    return bool(report.remote_mta and report.reply_code)


def _text_of(report: RecipientReport, is_global: bool) -> bytes:
    text = _printable(b" ".join(report.text[:LONGEST_TEXT].split()), is_global)
    if not _is_reply(report):
        return text
    enhanced = b"" if report.reply_enhanced is None else b" %d.%d.%d" % report.reply_enhanced
    return b"%d%s %s" % (report.reply_code, enhanced, text)


def _printable(octets: bytes, is_global: bool) -> bytes:
    """One line of printable text: UTF-8 where it may be, ASCII elsewhere."""
    text = octets.decode("utf-8" if is_global else "ascii", "replace")
    return "".join(
        character if character.isprintable() and character != "\ufffd" else "?" for character in text
    ).encode()


def _date(seconds: float) -> bytes:
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC)).encode()


def _references(message_id: bytes | None) -> list[tuple[str, bytes]]:
    """What ties the notification to the message in a mail reader (RFC 3834 §3.1.5), if that names itself well."""
    if message_id is None or len(message_id) > LONGEST_MESSAGE_ID or not _MESSAGE_ID.fullmatch(message_id):
        return []
    return [("In-Reply-To", message_id), ("References", message_id)]


def _field(name: str, value: bytes) -> bytes:
    """A header field, folded as RFC 5322 §2.2.3 does it: unfolding gives back the same octets."""
    start = name.encode() + b": "
    return b"\r\n".join(_wrap(start + value.strip(), b" ", len(start))) + b"\r\n"


def _wrap(line: bytes, indent: bytes, least: int = 0) -> list[bytes]:
    """line folded at spaces behind `least`; a word that is too long for any line is cut."""
    lines: list[bytes] = []
    while len(line) > FOLD_AT:
        # a fold in front of the first word would leave a line of blanks
        least = max(least, len(line) - len(line.lstrip(b" ")) + 1)
        fold = line.rfind(b" ", least, FOLD_AT)
        if fold < 0:
            fold = line.find(b" ", max(least, FOLD_AT))
        if not 0 <= fold <= LONGEST_LINE:
            if len(line) <= LONGEST_LINE:
                break
            fold = LONGEST_LINE
        lines.append(line[:fold])
        line = indent + line[fold:].removeprefix(b" ")
        least = 0
    lines.append(line)
    return lines


def _boundary(message_id: str, parts: Sequence[bytes]) -> bytes:
    """A boundary that no part holds (RFC 2046 §5.1.1)."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "." for c in message_id)[:50]
    counter = 0
    while True:
        boundary = f"=_{stem}_{counter}".encode()
        if not any(boundary in part for part in parts):
            return boundary
        counter += 1
