"""The PROXY protocol's header in plain Python: what angarium._core.proxy_header must say, of a whole piece of octets.

`read_header(octets)` returns (octets of the header, what it says); None when it is not whole; Wrong when it is none.
"""

import ipaddress
import re
from dataclasses import dataclass

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LINE_OCTETS = 107
MOST_OCTETS = 4096
PORT = re.compile(rb"0|[1-9][0-9]{0,4}")


class Wrong(Exception):
    """These octets are no header."""


@dataclass(frozen=True)
class Said:
    """What a header says; the ends are (address, port)."""

    version: int
    known: bool = False
    source: tuple[str, int] = ("", 0)
    destination: tuple[str, int] = ("", 0)


def read_header(octets: bytes) -> tuple[int, Said] | None:
    if not octets:
        return None
    if octets[:1] == b"P":
        return read_line(octets)
    if octets[:1] == b"\r":
        return read_block(octets)
    raise Wrong("no header")


# --- version 1: one line of words ---


def read_line(octets: bytes) -> tuple[int, Said] | None:
    if not b"PROXY ".startswith(octets[:6]):
        raise Wrong("no header")
    line, newline, _ = octets[:LINE_OCTETS].partition(b"\n")
    if not newline:
        if len(octets) >= LINE_OCTETS:
            raise Wrong("too long")
        return None
    if not line.startswith(b"PROXY ") or not line.endswith(b"\r"):
        raise Wrong("malformed")
    family, *rest = line[len(b"PROXY ") : -1].split(b" ")
    if family == b"UNKNOWN":
        return len(line) + 1, Said(1)
    if family not in (b"TCP4", b"TCP6") or len(rest) != 4:
        raise Wrong("malformed")
    kind = ipaddress.IPv4Address if family == b"TCP4" else ipaddress.IPv6Address
    source, destination = (address(kind, word) for word in rest[:2])
    source_port, destination_port = map(port, rest[2:])
    return len(line) + 1, Said(1, True, (source, source_port), (destination, destination_port))


def address(kind: type, word: bytes) -> str:
    try:
        text = word.decode("ascii")
        if "%" in text:
            raise ValueError(text)
        return shown(kind(text))
    except ValueError:
        raise Wrong("malformed") from None


def shown(found: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As inet_ntop writes it: an IPv4 address inside an IPv6 one has dots."""
    if isinstance(found, ipaddress.IPv6Address) and found.packed[:12] in (bytes(10) + b"\xff\xff", bytes(12)):
        inner = ipaddress.IPv4Address(found.packed[12:])
        if found.packed[:12] != bytes(12) or found.packed[12:14] != bytes(2):
            return ("::ffff:" if found.packed[10:12] == b"\xff\xff" else "::") + str(inner)
    return str(found)


def port(word: bytes) -> int:
    if not PORT.fullmatch(word) or int(word) > 65535:
        raise Wrong("malformed")
    return int(word)


def block_of(command: int, family: int, rest: bytes, length: int | None = None) -> bytes:
    """A header of version 2; `length`: what it says of the octets behind its 16, None: the truth."""
    return SIGNATURE + bytes([command, family]) + (len(rest) if length is None else length).to_bytes(2, "big") + rest


# --- version 2: a block of 16 octets, and as many behind it as it says ---


def read_block(octets: bytes) -> tuple[int, Said] | None:
    if not SIGNATURE.startswith(octets[:12]):
        raise Wrong("no header")
    if len(octets) < 16:
        return None
    command, family = octets[12], octets[13]
    length = 16 + int.from_bytes(octets[14:16], "big")
    if length > MOST_OCTETS:
        raise Wrong("too long")
    if len(octets) < length:
        return None
    rest = octets[16:length]
    if command not in (0x20, 0x21):
        raise Wrong("malformed")
    if command == 0x20 or family == 0:
        return length, Said(2)
    if family == 0x31 and len(rest) >= 216:
        return length, Said(2, True)
    size = {0x11: 4, 0x21: 16}.get(family, 0)
    if not size or len(rest) < 2 * size + 4:
        raise Wrong("malformed")
    source, destination = (shown(ipaddress.ip_address(rest[i : i + size])) for i in (0, size))
    ports = [int.from_bytes(rest[i : i + 2], "big") for i in (2 * size, 2 * size + 2)]
    return length, Said(2, True, (source, ports[0]), (destination, ports[1]))
