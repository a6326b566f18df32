"""What a program hands in becomes mail data: CRLF at the ends of lines, and the fields that must be there.

Input: octets with LF, CRLF or CR at the ends of their lines, header section first. Output: fields and body, the
recipients that the fields name, and mail data with what RFC 6409 §8 lets a submission server add: From, Date and
Message-ID, where they are missing. Nothing that is there is changed, but that Bcc fields are taken out: whom they name
must not be seen by the others (RFC 5322 §3.6.3).

Fails: ValueError for recipients that cannot be read (angarium.mail.address_list).
"""

from __future__ import annotations

import re
from binascii import b2a_base64

from angarium.mail.address_list import addresses_in

__all__ = ["Composition", "display_name"]

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_WORD_OCTETS = 42  # of one encoded-word: 75 characters at most (RFC 2047 §2)
_RECIPIENTS = (b"to", b"cc", b"bcc")
_RESENT = (b"resent-to", b"resent-cc", b"resent-bcc")


class Composition:
    """A message on its way to become mail data."""

    def __init__(self, octets: bytes) -> None:
        octets = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if octets.startswith((b"From ", b">From ")):
            octets = octets.partition(b"\n")[2]  # a line of an mbox file
        self._fields: list[tuple[bytes, bytes]] = []  # name in lower case, and the whole field
        self._body = self._take_fields(octets)

    def _take_fields(self, octets: bytes) -> bytes:
        """Split off the header section; what is no field begins the body."""
        at = 0
        while at < len(octets):
            end = octets.find(b"\n", at) + 1 or len(octets)
            line = octets[at:end]
            if line == b"\n":
                return octets[end:]
            name = _FIELD.match(line)
            if line[:1] in (b" ", b"\t") and self._fields:
                last, field = self._fields[-1]
                self._fields[-1] = (last, field + line)
            elif name is not None:
                self._fields.append((name[1].lower(), line))
            else:
                return octets[at:]
            at = end
        return b""

    @property
    def names(self) -> set[bytes]:
        """The names of its fields, in lower case."""
        return {name for name, _ in self._fields}

    def recipients(self) -> list[str]:
        """Whom To, Cc and Bcc name; where the message was resent, whom the Resent fields name (RFC 5322 §3.6.6)."""
        wanted = _RESENT if self.names & set(_RESENT) else _RECIPIENTS
        found = []
        for name, field in self._fields:
            if name in wanted:
                value = field.partition(b":")[2].replace(b"\n", b" ").decode("utf-8", "surrogateescape")
                try:
                    found += addresses_in(value.strip())
                except ValueError as error:
                    raise ValueError(f"{name.decode().title()}: {error}") from None
        return found

    def remove_bcc(self) -> None:
        """Take out the fields that nobody but their recipients may see."""
        self._fields = [entry for entry in self._fields if entry[0] not in (b"bcc", b"resent-bcc")]

    def mail_data(self, *, author: str, date: str, message_id: str) -> bytes:
        """The whole message; author, date and message_id are the values of fields that are not there."""
        names = self.names
        added = [
            f"{name}: {value}\n".encode("utf-8", "surrogateescape")
            for name, value in (("Date", date), ("From", author), ("Message-ID", message_id))
            if name.lower().encode() not in names
        ]
        lines = b"".join([*added, *(field if field.endswith(b"\n") else field + b"\n" for _, field in self._fields)])
        body = self._body if self._body.endswith(b"\n") or not self._body else self._body + b"\n"
        return (lines + b"\n" + body).replace(b"\n", b"\r\n")


def display_name(name: str, address: str) -> str:
    """A mailbox with a name in front (RFC 5322 §3.4); without one the address alone."""
    name = " ".join(name.split())
    if not name:
        return address
    if _ATOMS.fullmatch(name):
        return f"{name} <{address}>"
    if name.isascii() and name.isprintable():
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}" <{address}>'
    words, word = [], ""
    for character in name:
        if len((word + character).encode("utf-8", "replace")) > _WORD_OCTETS:
            words.append(word)
            word = ""
        word += character
    encoded = (b2a_base64(each.encode("utf-8", "replace"), newline=False).decode() for each in (*words, word))
    return " ".join(f"=?utf-8?B?{each}?=" for each in encoded) + f" <{address}>"
