"""XCLIENT's arguments in plain Python: what angarium._core.xclient must say of them.

`read_xclient(arguments)` returns what is said by attribute, or the reply line that refuses it.
"""

import ipaddress
import re

HEXCHAR = re.compile(rb"\+([0-9A-F]{2})")
XTEXT = re.compile(rb"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
ASCII_VALUE = re.compile(rb"[\x21-\x7e]{1,255}")
UNAVAILABLE = (b"[UNAVAILABLE]", b"[TEMPUNAVAIL]")

SYNTAX = "Syntax: XCLIENT attribute=value [attribute=value]"
ATTRIBUTE = "XCLIENT attribute not recognized"
ADDRESS = "XCLIENT: ADDR and DESTADDR need an IPv4 address, or IPV6: and an IPv6 address"
PORT = "XCLIENT: PORT and DESTPORT need a number from 0 to 65535"
PROTOCOL = "XCLIENT: PROTO needs SMTP or ESMTP"
VALUE = "XCLIENT value is empty, too long, or has octets that it may not have"

Said = dict[str, object]
NOTHING: Said = {"address": None, "name": None, "greeting": None, "login": None, "plain": False}


class Refused(Exception):
    """The arguments are refused with this text."""


def decoded(attribute: bytes, text: bytes) -> bytes:
    if not XTEXT.fullmatch(text):
        raise Refused(VALUE)
    value = HEXCHAR.sub(lambda found: bytes.fromhex(found[1].decode()), text)
    if attribute != b"LOGIN":
        if not ASCII_VALUE.fullmatch(value):
            raise Refused(VALUE)
        return value
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(VALUE) from None
    if not 1 <= len(value) <= 255 or any(octet <= 32 or octet == 127 for octet in value):
        raise Refused(VALUE)
    return value


def address(value: bytes) -> bytes:
    text = value[5:] if value[:5].upper() == b"IPV6:" else value
    kind = ipaddress.IPv6Address if b":" in text else ipaddress.IPv4Address
    try:
        if b"%" in text:
            raise ValueError(text)
        kind(text.decode("ascii"))
    except ValueError:
        raise Refused(ADDRESS) from None
    return text.lower()


def take(said: Said, attribute: bytes, text: bytes) -> None:
    known = text.upper() not in UNAVAILABLE
    value = decoded(attribute, text) if known else b""
    match attribute:
        case b"ADDR" | b"DESTADDR":
            found = address(value) if known else b"unknown"
            if attribute == b"ADDR":
                said["address"] = found
        case b"PORT" | b"DESTPORT":
            if known and not (value.isdigit() and len(value) <= 5 and int(value) <= 65535):
                raise Refused(PORT)
        case b"NAME":
            said["name"] = value
        case b"HELO":
            said["greeting"] = value
        case b"LOGIN":
            said["login"] = value
        case b"PROTO":
            if known and value.upper() not in (b"SMTP", b"ESMTP"):
                raise Refused(PROTOCOL)
            said["plain"] = value.upper() == b"SMTP"
        case _:
            raise Refused(ATTRIBUTE)


def read_xclient(arguments: bytes) -> Said | bytes:
    said = dict(NOTHING)
    try:
        words = arguments.split()
        if not words:
            raise Refused(SYNTAX)
        for word in words:
            attribute, equals, text = word.partition(b"=")
            if not equals or not attribute:
                raise Refused(SYNTAX)
            take(said, attribute.upper(), text)
    except Refused as refused:
        return f"501 5.5.4 {refused}\r\n".encode()
    return said
