"""Delivery status notifications: what the sender is told about mail that failed, is late, or has arrived.

Job: `build_dsn` composes the whole message: multipart/report (RFC 6522) of a text for people (angarium.outcome.notice),
a message/delivery-status (RFC 3464) for programs, and the original message or its header section. Input: values only;
time, message id, host name and wordings are passed in. Output: octets ready for the queue, with the null reverse-path
(RFC 5321 §4.5.5, RFC 3461 §6.1).

There is none (None is returned) for a message that came with the null reverse-path, and none about a recipient whose
NOTIFY does not ask for it (RFC 3461 §4.1; the table is in angarium.outcome.report).

The original is returned whole when something failed, RET is not HDRS, and it is not larger than
`longest_original_octets`; else its header section alone (RFC 3461 §4.3), cut at a line end after LONGEST_HEADER octets.

Internationalised mail (RFC 6533): where the reverse-path is not ASCII, the notification needs SMTPUTF8, and what is not
ASCII stands in it as it is, in message/global-delivery-status, message/global and message/global-headers. Where the
reverse-path is ASCII, nobody knows whether its host takes such mail: addresses are written as utf-8-addr-xtext in a
plain message/delivery-status (§3), the original or its header goes as base64 (§4.1), and the notification can go
everywhere. The text for people is quoted-printable when it is not ASCII.

Texts from outside (replies, ENVID, ORCPT) can hold anything: what is not printable becomes "?", and none of them can
end a line. ValueError: envid or orcpt is not xtext.
"""

from __future__ import annotations

import base64
import quopri
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import Header
from email.utils import format_datetime, formataddr
from typing import TYPE_CHECKING

from angarium._core.command import ReturnContent, decode_xtext
from angarium._core.header import HeaderWalk
from angarium.config.wording import shipped_wordings
from angarium.outcome.notice import gravest, notice_lines, notice_subject, reply_of
from angarium.outcome.report import OriginalMessage, RecipientReport, is_wanted, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from angarium.config.wording import Wording

__all__ = ["DeliveryStatusNotification", "OriginalMessage", "RecipientReport", "build_dsn"]

LONGEST_ORIGINAL = 50_000
LONGEST_HEADER = 50_000
FOLD_AT = 76  # octets of a line, where there is a space to fold at
LONGEST_MESSAGE_ID = 250
LONGEST_LINE = 990  # RFC 5322 §2.1.1: 998; a word without spaces is cut here

_MESSAGE_ID = re.compile(rb"<[!-~]+>")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")  # RFC 6533 §3: EmbeddedUnicodeChar
_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")  # RFC 6533 §3: what utf-8-addr-xtext cannot hold as it is


@dataclass(frozen=True, slots=True)
class DeliveryStatusNotification:
    """A message to be queued. `eight_bit`: it needs 8BITMIME; `smtputf8`: it needs SMTPUTF8."""

    reverse_path: bytes
    recipient: bytes
    mail_data: bytes
    eight_bit: bool
    smtputf8: bool
    kind: str  # the gravest that it tells


def build_dsn(
    original: OriginalMessage,
    reports: Iterable[RecipientReport],
    *,
    hostname: str,
    now: float,
    message_id: str,
    wordings: Sequence[Wording] = (),
    longest_original_octets: int = LONGEST_ORIGINAL,
) -> DeliveryStatusNotification | None:
    """The notification about those recipients of original who want one; None when there is nobody to tell.

    `message_id` is unique and without angle brackets: `local@domain`. Without wordings it speaks English.
    """
    wanted = [report for report in reports if is_wanted(report.kind, report.notify)]
    if not original.reverse_path or not wanted:
        return None
    wordings = wordings or (shipped_wordings()["en"],)
    kind = gravest(wanted)
    walk = HeaderWalk(original.mail_data)
    header = original.mail_data[: min(walk.length, LONGEST_HEADER)]
    whole = (
        kind in ("failed", "expired")
        and original.ret != ReturnContent.RET_HDRS
        and len(original.mail_data) <= longest_original_octets
    )
    smtputf8 = not original.reverse_path.isascii()
    parts = [
        _people_part(original, wanted, hostname, wordings, header),
        _program_part(original, wanted, hostname, smtputf8),
        _original_part(original, walk.length, whole, smtputf8),
    ]
    eight_bit = not all(part.isascii() for part in parts)
    boundary = _boundary(message_id, parts)
    fields = [
        _text_field("From", formataddr((wordings[0].sender, f"postmaster@{hostname}"))),
        _field("To", b"<" + printable(original.reverse_path, True) + b">"),
        _text_field("Subject", notice_subject(wordings[0], original, kind, hostname, header)),
        _field("Date", _date(now)),
        _field("Message-ID", f"<{message_id}>".encode()),
        *(_field(name, value) for name, value in _references(walk.message_id)),
        _field("Auto-Submitted", b"auto-replied"),  # RFC 3834 §5
        _field("MIME-Version", b"1.0"),
        _field("Content-Type", b'multipart/report; report-type=delivery-status; boundary="' + boundary + b'"'),
        _field("Content-Transfer-Encoding", b"8bit" if eight_bit else b"7bit"),
    ]
    mail_data = b"".join(
        [
            *fields,
            b"\r\nThis is a delivery status notification in MIME format (RFC 3464).\r\n",
            *(b"\r\n--" + boundary + b"\r\n" + part for part in parts),
            b"\r\n--" + boundary + b"--\r\n",
        ]
    )
    return DeliveryStatusNotification(b"", original.reverse_path, mail_data, eight_bit, smtputf8, kind)


# ---------------------------------------------------------------------- the parts


def _people_part(
    original: OriginalMessage,
    reports: Sequence[RecipientReport],
    hostname: str,
    wordings: Sequence[Wording],
    header: bytes,
) -> bytes:
    lines = notice_lines(wordings, original, reports, hostname, header)
    body = "\n".join([*lines, ""]).encode("utf-8", "replace")
    charset, encoding = b"us-ascii", b"7bit"
    if not body.isascii():
        charset, encoding = b"utf-8", b"quoted-printable"
        body = quopri.encodestring(body)
    return (
        b"Content-Type: text/plain; charset=" + charset + b"\r\nContent-Description: Notification\r\n"
        b"Content-Language: " + ", ".join(wording.language for wording in wordings).encode() + b"\r\n"
        b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n" + body.replace(b"\n", b"\r\n")
    )


def _program_part(
    original: OriginalMessage, reports: Sequence[RecipientReport], hostname: str, smtputf8: bool
) -> bytes:
    """RFC 3464 §2, and RFC 6533 §4 where what it says is not ASCII."""
    groups = [[("Reporting-MTA", f"dns; {hostname}".encode())]]
    if original.envid:
        groups[0].append(("Original-Envelope-Id", printable(decode_xtext(original.envid), False)))
    groups[0].append(("Arrival-Date", _date(original.received)))
    for report in reports:
        fields: list[tuple[str, bytes]] = []
        orcpt = _original_recipient(report.orcpt, smtputf8)
        if orcpt:
            fields.append(("Original-Recipient", orcpt))
        fields += [
            ("Final-Recipient", _final_recipient(report.forward_path, smtputf8)),
            ("Action", report.action.encode()),
            ("Status", str(report.status).encode()),
        ]
        if report.remote_mta:
            fields.append(("Remote-MTA", b"dns; " + printable(report.remote_mta, False)))
        # without a reply there is no SMTP diagnostic to quote: a type of our own (RFC 3464 §2.1.2)
        kind = b"smtp; " if report.is_reply else b"X-Angarium; "
        fields.append(("Diagnostic-Code", kind + reply_of(report, smtputf8)))
        if report.last_attempt is not None:
            fields.append(("Last-Attempt-Date", _date(report.last_attempt)))
        fields.append(("Final-Log-ID", original.queue_id.encode()))  # RFC 3464 §2.3.8
        if report.kind == "delayed" and report.retries_until is not None:
            fields.append(("Will-Retry-Until", _date(report.retries_until)))
        groups.append(fields)
    body = b"\r\n".join(b"".join(_field(name, value) for name, value in group) for group in groups)
    ascii_only = body.isascii()
    return (
        b"Content-Type: message/"
        + (b"" if ascii_only else b"global-")
        + b"delivery-status\r\nContent-Description: Delivery report\r\nContent-Transfer-Encoding: "
        + (b"7bit" if ascii_only else b"8bit")
        + b"\r\n\r\n"
        + body
    )


def _original_part(original: OriginalMessage, header_length: int, whole: bool, smtputf8: bool) -> bytes:
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
    encoding = b"7bit" if content.isascii() else b"8bit"
    if is_global and not smtputf8:
        encoding = b"base64"  # RFC 6533 §4.1: its host may not offer SMTPUTF8
        content = base64.encodebytes(content).replace(b"\n", b"\r\n")
    return (
        b"Content-Type: "
        + content_type
        + b"\r\nContent-Description: "
        + (b"Your message" if whole else b"Header of your message")
        + b"\r\nContent-Transfer-Encoding: "
        + encoding
        + b"\r\n\r\n"
        + content
    )


# ---------------------------------------------------------------------- addresses


def _original_recipient(orcpt: bytes, smtputf8: bool) -> bytes:
    """ORCPT as Original-Recipient wants it: the address without its xtext (RFC 3464 §2.3.1).

    An address of type utf-8 is written as it is where it may be, else as utf-8-addr-xtext (RFC 6533 §3).
    """
    kind, semicolon, address = orcpt.partition(b";")
    if not semicolon:
        return b""
    if kind.lower() != b"utf-8":
        return printable(kind + b"; " + decode_xtext(address), False)
    text = address.decode("utf-8", "replace")
    if text.isascii():
        text = _EMBEDDED.sub(_embedded, text)
    return _utf8_address(text, smtputf8)


def _final_recipient(path: bytes, smtputf8: bool) -> bytes:
    if path.isascii():
        return b"rfc822; " + printable(path, False)
    return _utf8_address(path.decode("utf-8", "replace"), smtputf8)


def _utf8_address(text: str, smtputf8: bool) -> bytes:
    if smtputf8:
        return b"utf-8; " + printable(text.encode("utf-8", "replace"), True)
    return b"utf-8; " + _NOT_QCHAR.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", text).encode("ascii")


def _embedded(found: re.Match[str]) -> str:
    number = int(found[1], 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else found[0]


# ---------------------------------------------------------------------- fields


def _date(seconds: float) -> bytes:
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC)).encode()


def _references(message_id: bytes | None) -> list[tuple[str, bytes]]:
    """What ties the notification to the message in a mail reader (RFC 3834 §3.1.5), if that names itself well."""
    if message_id is None or len(message_id) > LONGEST_MESSAGE_ID or not _MESSAGE_ID.fullmatch(message_id):
        return []
    return [("In-Reply-To", message_id), ("References", message_id)]


def _text_field(name: str, text: str) -> bytes:
    """A field of text for people; what is not ASCII goes as encoded words (RFC 2047)."""
    if text.isascii():
        return _field(name, text.encode())
    encoded = Header(text, "utf-8", header_name=name).encode(linesep="\r\n")
    return f"{name}: {encoded}\r\n".encode()


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
