"""The messages that arrived in the sandbox: reads the Maildir of its sink.

Job: list what is in new/ and cur/, newest first, and take one message apart for reading. Whatever is in a message was
written by anybody: nothing here trusts it, and a message that cannot be parsed is still shown as it is.

A message's id is its file name without the flags behind the colon; names begin with the second of arrival, by which the
list is ordered. Names that do not are listed last.

Fails: a message that is not there, or whose id could name anything but a file of this Maildir, is None.
Bounds: CACHED messages' summaries are kept; HEADER_MAX_OCTETS of a message are read for the list, MESSAGE_MAX_OCTETS to
show it, of which TEXT_MAX_OCTETS are given as text.

All functions here read files and may take some milliseconds: call them in a thread.
"""

from __future__ import annotations

import codecs
import heapq
import os
import re
from collections import OrderedDict
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.parser import BytesHeaderParser, BytesParser
from pathlib import Path
from typing import TYPE_CHECKING

from angarium.admin.model import Attachment, SandboxListing, SandboxMessage, SandboxMessageDetail

if TYPE_CHECKING:
    from email.message import Message

__all__ = ["SandboxMail"]

CACHED = 2_000
HEADER_MAX_OCTETS = 64 * 1024
MESSAGE_MAX_OCTETS = 8 * 1024 * 1024
TEXT_MAX_OCTETS = 1024 * 1024
FIELD_MAX_CHARACTERS = 4096

_ID = re.compile(r"[A-Za-z0-9_=+,@%-][A-Za-z0-9._=+,@%-]{0,199}")
_ARRIVAL = re.compile(r"(\d{1,12})(?:\.M(\d{1,6}))?")
# Python's own text codecs that no mail is written in; some take time that grows with the square of the length.
_NOT_FOR_MAIL = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")


class SandboxMail:
    """The Maildir at `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._folders = (path / "new", path / "cur")
        self._summaries: OrderedDict[str, SandboxMessage] = OrderedDict()

    def listing(self, limit: int) -> SandboxListing:
        """The newest `limit` messages."""
        found: dict[str, Path] = {}
        for folder in self._folders:
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        name = entry.name.partition(":")[0]
                        if _ID.fullmatch(name):
                            found[name] = Path(entry.path)
            except FileNotFoundError:
                continue
        newest = heapq.nlargest(limit, found, key=_order)
        messages = [summary for name in newest if (summary := self._summary(name, found[name])) is not None]
        return SandboxListing(total=len(found), messages=messages)

    def message(self, message_id: str) -> SandboxMessageDetail | None:
        """One message taken apart."""
        path = self._find(message_id)
        if path is None:
            return None
        summary = self._summary(message_id, path)
        octets = _read(path, MESSAGE_MAX_OCTETS)
        if summary is None or octets is None:
            return None
        text, html, attachments = _parts(octets)
        header = BytesHeaderParser().parsebytes(_header_section(octets))
        return SandboxMessageDetail(
            id=message_id,
            from_=summary.from_,
            to=summary.to,
            subject=summary.subject,
            date=summary.date,
            octets=summary.octets,
            received=summary.received,
            reverse_path=str(header.get("Return-Path", "")),
            header=[(name, _one_line(_text(value))) for name, value in header.raw_items()],
            text=text,
            html=html,
            attachments=attachments,
            raw=octets[:TEXT_MAX_OCTETS].decode("utf-8", "replace"),
            cut=summary.octets > TEXT_MAX_OCTETS,
        )

    def octets(self, message_id: str) -> bytes | None:
        """One message as it arrived, whole."""
        path = self._find(message_id)
        return None if path is None else _read(path, -1)

    def _find(self, message_id: str) -> Path | None:
        if not _ID.fullmatch(message_id):
            return None
        for folder in self._folders:
            path = folder / message_id
            if path.is_file():
                return path
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.startswith(message_id + ":"):
                            return Path(entry.path)
            except FileNotFoundError:
                continue
        return None

    def _summary(self, name: str, path: Path) -> SandboxMessage | None:
        known = self._summaries.get(name)
        if known is not None:
            self._summaries.move_to_end(name)
            return known
        octets = _read(path, HEADER_MAX_OCTETS)
        if octets is None:
            return None
        status = path.stat()
        header = BytesHeaderParser().parsebytes(_header_section(octets))
        summary = SandboxMessage(
            id=name,
            from_=_decoded(header, "From"),
            to=_decoded(header, "To"),
            subject=_decoded(header, "Subject"),
            date=_decoded(header, "Date"),
            octets=status.st_size,
            received=datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="milliseconds"),
        )
        self._summaries[name] = summary
        if len(self._summaries) > CACHED:
            self._summaries.popitem(last=False)
        return summary


def _order(name: str) -> tuple[int, int, str]:
    arrival = _ARRIVAL.match(name)
    if arrival is None:
        return (0, 0, name)
    return (int(arrival[1]), int(arrival[2] or 0), name)


def _read(path: Path, limit: int) -> bytes | None:
    """The first octets of a file; None when it is not a plain file, or has gone."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return file.read(limit)
    except OSError:
        return None


def _header_section(octets: bytes) -> bytes:
    end = _END_OF_HEADER.search(octets)
    return octets if end is None else octets[: end.end()]


def _decoded(header: Message, name: str) -> str:
    """A field's text with encoded words (RFC 2047) decoded; as it stands when they make no sense."""
    values = (value for field, value in header.raw_items() if field.lower() == name.lower())
    value = _text(next(values, ""))[:FIELD_MAX_CHARACTERS]
    try:
        decoded = _one_line(str(make_header(decode_header(value))))
    except (HeaderParseError, LookupError, ValueError):
        decoded = ""
    return decoded or _one_line(value)


def _text(value: str) -> str:
    """A field's value as it stands; its 8-bit octets, which the parser keeps as surrogates, are UTF-8 (RFC 6532)."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _one_line(text: str) -> str:
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def _parts(octets: bytes) -> tuple[str | None, str | None, list[Attachment]]:
    """Text, HTML and attachments; nothing of all this when the message cannot be taken apart."""
    try:
        message = BytesParser().parsebytes(octets)
        text: str | None = None
        html: str | None = None
        attachments: list[Attachment] = []
        for part in message.walk():
            if part.is_multipart():
                continue
            content_type = part.get_content_type()
            content = part.get_payload(decode=True)
            body = content if isinstance(content, bytes) else b""
            attached = part.get_content_disposition() == "attachment"
            if content_type == "text/plain" and text is None and not attached:
                text = _text_of(part, body)
            elif content_type == "text/html" and html is None and not attached:
                html = _text_of(part, body)
            else:
                filename = _one_line(part.get_filename() or "")
                attachments.append(Attachment(filename=filename, content_type=content_type, octets=len(body)))
    except (RecursionError, LookupError, ValueError):
        # parts nested thousands deep, and parameters that name impossible character sets
        return None, None, []
    return text, html, attachments


def _text_of(part: Message, body: bytes) -> str:
    body = body[:TEXT_MAX_OCTETS]
    charset = str(part.get_content_charset("utf-8"))
    try:
        if codecs.lookup(charset).name not in _NOT_FOR_MAIL:
            return body.decode(charset, "replace")
    except (LookupError, ValueError):
        pass
    return body.decode("utf-8", "replace")
