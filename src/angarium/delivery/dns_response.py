"""Reads what a name server says to one question, RFC 1035 §4.1: the records at the end of the aliases, and for how
long.

Input: the octets of a response and the type that was asked for. Output: a Response. Own code, because it is read for
every name of every domain: a tenth of what dnspython takes, which is the reference in its tests.

Fails: ValueError for octets that are no message, or whose aliases go in a circle. Bounds: a pointer leads backwards
only and a name has 255 octets, so that no message takes longer than its size; aliases, MOST_ALIASES. A name with
octets that no host has is read as UNREADABLE, which does not exist (RFC 6761 §6.4)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from angarium.delivery.mail_host import Tlsa
from angarium.delivery.name_servers import HEADER_OCTETS, NUMBERS, RCODE

if TYPE_CHECKING:
    from angarium.delivery.name_servers import Type

__all__ = ["NOERROR", "NXDOMAIN", "UNREADABLE", "Response", "read_response"]

NOERROR, NXDOMAIN = 0, 3
NS, CNAME, SOA, OPT = 2, 5, 6, 41
INTERNET = 1
AUTHORITATIVE = 0x04  # of the third octet
AUTHENTIC = 0x20  # of the fourth
POINTER = 0xC0
POINTER_TO_QUESTION = b"\xc0\x0c"
LONGEST_LABEL = 63
LONGEST_NAME = 254  # without the root's octet
LONGEST_TTL_S = 0x7FFFFFFF  # RFC 2181 §8: what is longer is none
MOST_ALIASES = 16
UNREADABLE = "unreadable.invalid"
HOST_OCTETS = b"abcdefghijklmnopqrstuvwxyz0123456789-_."

_record = struct.Struct(">HHIH").unpack_from
_count = struct.Struct(">HHHH").unpack_from


@dataclass(slots=True)
class Response:
    """What a server says.

    `records` are (preference, name) of MX, (0, address) of A and AAAA, (0, name) of CNAME, Tlsa, or the octets of a
    TXT; None: the name at the end of the aliases, `canonical`, has none. `ttl_s` is the lowest of all that led there;
    None: a negative answer without an SOA record, which must not be kept (RFC 2308 §5).
    """

    rcode: int
    authoritative: bool
    secure: bool
    canonical: str
    records: list[Any] | None
    ttl_s: int | None
    has_soa: bool = False
    has_ns: bool = False


def read_response(octets: bytes, rdtype: Type) -> Response:
    """What the octets say about the question that stands in them."""
    try:
        return _read(octets, rdtype)
    except (IndexError, struct.error) as failure:
        raise ValueError("a message that ends too early") from failure


def _read(octets: bytes, rdtype: Type) -> Response:
    questions, answers, authorities, additions = _count(octets, 4)
    if questions != 1:  # a server that refused to say anything
        return Response(octets[3] & RCODE or 2, False, False, "", None, None)
    asked, at = _name(octets, HEADER_OCTETS)
    begin = at = at + 4
    wanted = NUMBERS[rdtype]
    found: dict[bytes, list[Any]] = {}
    aliases: dict[bytes, bytes] = {}
    ttls: dict[bytes, int] = {}
    for _ in range(answers):
        if octets[at : at + 2] == POINTER_TO_QUESTION:
            owner, at = asked, at + 2
        else:
            owner, at = _name(octets, at)
        kind, family, ttl_s, length = _record(octets, at)
        at += 10
        end = at + length
        if end > len(octets):
            raise IndexError
        if family == INTERNET and kind in (wanted, CNAME):
            if kind == wanted:
                found.setdefault(owner, []).append(_value(octets, at, end, rdtype))
            else:
                aliases.setdefault(owner, _whole_name(octets, at, end))
            ttls[owner] = min(ttls.get(owner, LONGEST_TTL_S), ttl_s if ttl_s <= LONGEST_TTL_S else 0)
        at = end
    name, least_s = asked, LONGEST_TTL_S
    for _ in range(MOST_ALIASES):
        least_s = min(least_s, ttls.get(name, LONGEST_TTL_S))
        if name in found or name not in aliases:
            break
        name = aliases[name]
    else:
        raise ValueError("aliases that have no end")
    response = Response(
        octets[3] & RCODE,
        bool(octets[2] & AUTHORITATIVE),
        bool(octets[3] & AUTHENTIC),
        _text(name),
        found.get(name),
        least_s,
    )
    if response.records is None:
        _read_negative(octets, at if answers else begin, authorities, additions, response, least_s)
    elif response.rcode == NXDOMAIN:
        raise ValueError("records of a name that does not exist")
    return response


def _read_negative(octets: bytes, at: int, authorities: int, additions: int, response: Response, least_s: int) -> None:
    """How long a "no" holds, whether there is one, and the rest of a response code that is longer than four bits."""
    response.ttl_s = None
    for number in range(authorities + additions):
        _, at = _name(octets, at)
        kind, family, ttl_s, length = _record(octets, at)
        end = at + 10 + length
        if end > len(octets):
            raise IndexError
        if kind == OPT:
            response.rcode |= (ttl_s >> 24) << 4  # RFC 6891 §6.1.3
        elif number < authorities and family == INTERNET:
            if kind == SOA:
                (minimum_s,) = struct.unpack_from(">I", octets, end - 4)
                response.has_soa = True
                response.ttl_s = min(least_s, ttl_s, minimum_s)
            elif kind == NS:
                response.has_ns = True
        at = end


def _value(octets: bytes, at: int, end: int, rdtype: Type) -> Any:
    """One record as Response has it. ValueError when it is not as long as it says."""
    match rdtype:
        case "A" if end - at == 4:
            return 0, socket.inet_ntop(socket.AF_INET, octets[at:end])
        case "AAAA" if end - at == 16:
            return 0, socket.inet_ntop(socket.AF_INET6, octets[at:end])
        case "MX" if end - at > 2:
            return octets[at] << 8 | octets[at + 1], _text(_whole_name(octets, at + 2, end)) or "."
        case "CNAME":
            return 0, _text(_whole_name(octets, at, end))
        case "TLSA" if end - at > 3:
            return Tlsa(octets[at], octets[at + 1], octets[at + 2], octets[at + 3 : end])
        case "TXT" if end > at:
            text = b""
            while at < end:
                after = at + 1 + octets[at]
                text += octets[at + 1 : after]
                at = after
            if at == end:
                return text
    raise ValueError(f"a record of the type {rdtype} with a wrong length")


def _whole_name(octets: bytes, at: int, end: int) -> bytes:
    name, after = _name(octets, at)
    if after != end:
        raise ValueError("a name with something behind it")
    return name


def _name(octets: bytes, at: int) -> tuple[bytes, int]:
    """A name in lower case without the last dot, and where it ends (RFC 1035 §4.1.4)."""
    labels: list[bytes] = []
    size = 0
    end = -1
    before = at
    while length := octets[at]:
        if length >= POINTER:
            pointer = (length & ~POINTER) << 8 | octets[at + 1]
            if end < 0:
                end = at + 2
            if pointer >= before:
                raise ValueError("a pointer that does not lead backwards")
            before = at = pointer
            continue
        if length > LONGEST_LABEL:
            raise ValueError("a label of an unknown kind")
        size += length + 1
        if size > LONGEST_NAME:
            raise ValueError("a name that is too long")
        label = octets[at + 1 : at + 1 + length]
        # a dot within a label would make two of it
        labels.append(label.replace(b".", b"\0") if b"." in label else label)
        at += length + 1
    return b".".join(labels).lower(), at + 1 if end < 0 else end


def _text(name: bytes) -> str:
    return UNREADABLE if name.translate(None, HOST_OCTETS) else name.decode("ascii")
