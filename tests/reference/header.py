"""Reference model of the header walk and of header edits: RFC 5322 §2.2 by splitting into lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

FIELD = re.compile(rb"([\x21-\x39\x3b-\x7e]+)[ \t]*:")
EMPTY_LINE = (b"\r\n", b"\n")
AROUND = b" \t\r\n"


@dataclass
class Section:
    """What stands where: each field is its lines, line ends included."""

    fields: list[bytes] = field(default_factory=list)
    length: int = 0
    body: int = 0
    malformed: bool = False


def walk(data: bytes) -> Section:
    section = Section()
    for match in re.finditer(rb"[^\n]*\n|[^\n]+", data):
        line = match[0]
        if line in EMPTY_LINE:
            section.body += len(line)
            return section
        if section.fields and line.startswith((b" ", b"\t")):
            section.fields[-1] += line
        elif FIELD.match(line):
            section.fields.append(line)
        else:
            section.malformed = True
            return section
        section.length += len(line)
        section.body = section.length
    return section


def name_and_value(octets: bytes) -> tuple[bytes, bytes]:
    match = FIELD.match(octets)
    assert match is not None
    return match[1], octets[match.end() :].strip(AROUND)


def facts(data: bytes) -> dict[str, object]:
    """The attributes of the compiled HeaderWalk."""
    section = walk(data)
    pairs = [name_and_value(octets) for octets in section.fields]
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in pairs:
        by_name.setdefault(name.lower(), []).append(value)
    return {
        "length": section.length,
        "body": section.body,
        "malformed": section.malformed,
        "fields": len(pairs),
        "received": len(by_name.get(b"received", [])),
        **{
            f"has_{name.replace('-', '_')}": name.encode() in by_name
            for name in ("date", "message-id", "from", "sender", "to", "cc", "bcc", "resent-bcc")
        },
        "from_fields": len(by_name.get(b"from", [])),
        "sender_fields": len(by_name.get(b"sender", [])),
        "sender": by_name.get(b"sender", [None])[0],
        "tls_required_no": any(value.lower() == b"no" for value in by_name.get(b"tls-required", [])),
        "durability_fields": len(by_name.get(b"x-angarium-durability", [])),
        "durability": by_name.get(b"x-angarium-durability", [None])[0],
        "message_id": by_name.get(b"message-id", [None])[0],
        "from_": by_name.get(b"from", [None])[0],
        "subject": by_name.get(b"subject", [None])[0],
    }


def without(data: bytes, name: bytes) -> bytes:
    """data without its fields of that name."""
    section = walk(data)
    kept = [octets for octets in section.fields if name_and_value(octets)[0].lower() != name.lower()]
    return b"".join(kept) + data[section.length :]


VALUE = re.compile(rb"(?:[^\0\r\n]*)(?:\r\n[ \t]+[^\0\r\n \t][^\0\r\n]*)*", re.DOTALL)
NAME = re.compile(rb"[\x21-\x39\x3b-\x7e]+")


class HeaderSectionModel:
    """The compiled HeaderSection's twin: a list of fields."""

    def __init__(self, data: bytes) -> None:
        section = walk(data)
        self._fields = section.fields
        self.length = section.length
        self.body = section.body
        self.malformed = section.malformed
        self.edited = False

    def fields(self) -> list[tuple[bytes, bytes]]:
        return [name_and_value(octets) for octets in self._fields]

    def _places(self, name: bytes) -> list[int]:
        return [i for i, (other, _) in enumerate(self.fields()) if other.lower() == name.lower()]

    def get(self, name: bytes) -> bytes | None:
        return next(iter(self.get_all(name)), None)

    def get_all(self, name: bytes) -> list[bytes]:
        return [self.fields()[i][1] for i in self._places(name)]

    def count(self, name: bytes) -> int:
        return len(self._places(name))

    def _new(self, name: bytes, value: bytes) -> bytes:
        if not NAME.fullmatch(name) or not VALUE.fullmatch(value):
            raise ValueError(name, value)
        return name + b": " + value + b"\r\n"

    def prepend(self, name: bytes, value: bytes) -> None:
        self._fields.insert(0, self._new(name, value))
        self.edited = True

    def append(self, name: bytes, value: bytes) -> None:
        self._fields.append(self._new(name, value))
        self.edited = True

    def replace(self, name: bytes, value: bytes, index: int = 0) -> bool:
        octets, places = self._new(name, value), self._places(name)
        if index >= len(places):
            return False
        self._fields[places[index]] = octets
        self.edited = True
        return True

    def remove(self, name: bytes) -> int:
        places = self._places(name)
        self._fields = [octets for i, octets in enumerate(self._fields) if i not in places]
        self.edited |= bool(places)
        return len(places)

    def render(self) -> bytes:
        *others, last = self._fields or [b""]
        return b"".join(octets if octets.endswith(b"\n") else octets + b"\r\n" for octets in others) + last
