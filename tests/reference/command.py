"""The command grammar in plain Python: what angarium._core.command must say about a line, word for word.

`parse_command` takes the same arguments as the compiled one and returns the attributes of a command that is right, or
the reply that refuses it. It is written for reading: a regular expression for each rule of
RFC 5321 §4.1, and the texts of the replies beside the rules they belong to.
"""

import calendar
import ipaddress
import re
from dataclasses import dataclass

OFFERS = {
    "SIZE": 1,
    "BODY": 2 | 16,
    "SMTPUTF8": 4,
    "RET": 8,
    "ENVID": 8,
    "NOTIFY": 8,
    "ORCPT": 8,
    "REQUIRETLS": 32,
    "AUTH": 64,
    "MT-PRIORITY": 128,
    "HOLDFOR": 256,
    "HOLDUNTIL": 256,
}
OFFER_SMTPUTF8 = 4
OFFER_BINARYMIME = 16
EVERY_OFFER = 511

NEVER, SUCCESS, FAILURE, DELAY = 1, 2, 4, 8

ATEXT = rb"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
LOCAL = re.compile(rb"[." + ATEXT + rb"\x80-\xff]*")
QUOTED = re.compile(rb'"(?:[^"\\]|\\[\x00-\x7f])*')
LABELS = re.compile(rb"[A-Za-z0-9_.\x80-\xff-]*")
LABEL = rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
NAME = LABEL + rb"(?:\." + LABEL + rb")*\.?"
SOURCE_ROUTE = re.compile(rb"@" + NAME + rb"(?:,@" + NAME + rb")*([:>])")
DCONTENT = re.compile(rb"[\x21-\x5a\x5e-\x7e]*")
GENERAL_LITERAL = re.compile(rb"[A-Za-z0-9-]*[A-Za-z0-9]:.+")
CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=(.*))?")
XTEXT = re.compile(rb"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
XTEXT_OR_HIGH = re.compile(rb"(?:[\x21-\x2a\x2c-\x3c\x3e-\xff]|\+[0-9A-F]{2})*")
ADDRESS_TYPE = re.compile(rb"[A-Za-z0-9!#$%&'*+/?^_`{|}~-]+")
DATE_TIME = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))",
)

Attributes = dict[str, object]


class Refused(Exception):
    """The line is refused with this reply (without CRLF)."""


class PathFault(Exception):
    """A path is wrong: the fault, the reply code, and the enhanced status where it is not that of a bad address."""

    def __init__(self, fault: str, code: int = 501, enhanced_status: str | None = None) -> None:
        super().__init__(fault)
        self.code = code
        self.enhanced_status = enhanced_status

    def reply(self, *, recipient: bool) -> str:
        whose, status = ("Recipient", "5.1.3") if recipient else ("Sender", "5.1.7")
        return f"{self.code} {self.enhanced_status or status} {whose} address: {self}"


@dataclass(frozen=True)
class Path:
    mailbox: bytes
    domain: bytes
    rest: bytes  # what stands behind it

    @property
    def internationalised(self) -> bool:
        return not self.mailbox.isascii()


def is_utf8(octets: bytes) -> bool:
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


# --- paths, RFC 5321 §4.1.2 and §4.1.3 ---


def is_literal(content: bytes) -> bool:
    if not DCONTENT.fullmatch(content):
        return False
    try:
        if b":" not in content:
            ipaddress.IPv4Address(content.decode("ascii"))
        elif content[:5].lower() == b"ipv6:":
            if b"%" in content:
                return False
            ipaddress.IPv6Address(content[5:].decode("ascii"))
        else:
            return GENERAL_LITERAL.fullmatch(content) is not None
    except ValueError:
        return False
    return True


def read_literal(text: bytes) -> tuple[bytes, bytes]:
    content, bracket, rest = text[1:].partition(b"]")
    if not bracket or not is_literal(content):
        raise PathFault("address literal is not valid")
    return b"[" + content + b"]", rest


def read_domain(text: bytes) -> tuple[bytes, bytes]:
    if text[:1] == b"[":
        return read_literal(text)
    run = LABELS.match(text)[0]
    rest = text[len(run) :]
    if not run:
        raise PathFault("domain is empty" if rest[:1] in (b"", b">", b" ") else "octet not allowed in domain")
    domain = run.removesuffix(b".")
    for label in domain.split(b"."):
        if not label:
            raise PathFault("domain has an empty label")
        if label.startswith(b"-") or label.endswith(b"-"):
            raise PathFault("domain label begins or ends with a hyphen")
        if label.isascii() and len(label) > 63:
            raise PathFault("domain label is longer than 63 octets")
    return domain, rest


def read_local_part(text: bytes, closing: bytes) -> tuple[bytes, bytes]:
    if text[:1] == b'"':
        inner = QUOTED.match(text)[0]
        rest = text[len(inner) :]
        if rest[:1] == b"\\" and len(rest) > 1:
            raise PathFault("backslash needs an ASCII octet behind it")
        if rest[:1] != b'"':
            raise PathFault("quoted local part is not closed")
        if rest[1:2] not in (b"@", closing, b""):
            raise PathFault("only @ may follow a quoted local part")
        return inner + b'"', rest[1:]
    local = LOCAL.match(text)[0]
    rest = text[len(local) :]
    if rest[:1] not in (b"@", closing, b""):
        raise PathFault("octet in local part needs quoting")
    if not local and text:
        raise PathFault("local part is empty")
    return local, rest


def read_path(text: bytes, *, recipient: bool) -> Path:
    text = text.lstrip(b" ")
    if not text:
        raise PathFault("missing")
    closing = b" "
    if text[:1] == b"<":
        closing = b">"
        text = text[1:]
        if text[:1] == b">":
            if recipient:
                raise PathFault("<> is for senders only")
            return Path(b"", b"", text[1:])
        if text[:1] == b"@":
            route = SOURCE_ROUTE.match(text)
            if route is None:
                raise PathFault("source route is malformed")
            if route[1] == b">":
                raise PathFault("local part is empty")
            text = text[route.end() :]
    mailbox, rest = read_local_part(text, closing)
    domain = b""
    if rest[:1] == b"@":
        domain, rest = read_domain(rest[1:])
        if rest[:1] not in (b"", b" ", closing):
            raise PathFault("octet not allowed in domain")
        mailbox += b"@" + domain
    if closing == b">":
        if rest[:1] != b">":
            raise PathFault("closing > is missing")
        rest = rest[1:]
    if not domain and not (recipient and mailbox.lower() == b"postmaster"):
        raise PathFault("domain is missing", 553)
    if len(domain) > 255:
        raise PathFault("domain is longer than 255 octets")
    if len(mailbox) + 2 > 256:
        raise PathFault("longer than 256 octets")
    if rest[:1] not in (b"", b" "):
        raise PathFault("only a space may follow it", 501, "5.5.4")
    return Path(mailbox, domain, rest)


def check_non_ascii(path: Path, *, allowed: bool) -> None:
    if path.internationalised:
        if not allowed:
            raise PathFault("non-ASCII octets need SMTPUTF8", 553, "5.6.7")
        if not is_utf8(path.mailbox):
            raise PathFault("not well-formed UTF-8")


# --- ESMTP parameters ---


def decode_xtext(text: bytes) -> bytes:
    return re.sub(rb"\+([0-9A-F]{2})", lambda hexchar: bytes([int(hexchar[1], 16)]), text)


def is_xtext(text: bytes, highest: int, pattern: re.Pattern[bytes] = XTEXT) -> bool:
    if not pattern.fullmatch(text):
        return False
    return all(32 <= int(hexchar, 16) <= highest and hexchar != b"7F" for hexchar in re.findall(rb"\+(..)", text))


def date_time(value: bytes) -> int | None:
    match = DATE_TIME.fullmatch(value)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(number) for number in match.groups()[:6])
    offset_hour, offset_minute = int(match[8] or 0), int(match[9] or 0)
    if not 1 <= month <= 12 or not 1 <= day <= calendar.monthrange(max(year, 1), month)[1]:
        return None
    if hour > 23 or minute > 59 or second > 60 or offset_hour > 23 or offset_minute > 59 or year < 1969:
        return None
    offset = (offset_hour * 60 + offset_minute) * 60
    moment = calendar.timegm((year, month, day, hour, minute, second)) + (offset if match[7] == b"-" else -offset)
    return moment if moment >= 0 else None


def one_of(values: dict[bytes, int], value: bytes | None) -> int | None:
    return values.get(value.lower()) if value is not None else None


def read_size(value: bytes | None, smtputf8: bool) -> Attributes | None:
    if value is None or not re.fullmatch(rb"[0-9]{1,20}", value):
        return None
    return {"size": min(int(value), 2**64 - 1)}


def read_body(value: bytes | None, smtputf8: bool) -> Attributes | None:
    body = one_of({b"7bit": 1, b"8bitmime": 2, b"binarymime": 3}, value)
    return None if body is None else {"body": body}


def read_smtputf8(value: bytes | None, smtputf8: bool) -> Attributes | None:
    return {"smtputf8": True} if value is None else None


def read_requiretls(value: bytes | None, smtputf8: bool) -> Attributes | None:
    return {"requiretls": True} if value is None else None


def read_ret(value: bytes | None, smtputf8: bool) -> Attributes | None:
    ret = one_of({b"full": 1, b"hdrs": 2}, value)
    return None if ret is None else {"ret": ret}


def read_envid(value: bytes | None, smtputf8: bool) -> Attributes | None:
    return {"envid": value} if value and len(value) <= 100 and is_xtext(value, 126) else None


def read_auth(value: bytes | None, smtputf8: bool) -> Attributes | None:
    return {"auth": value} if value and (value == b"<>" or is_xtext(value, 255)) else None


def read_priority(value: bytes | None, smtputf8: bool) -> Attributes | None:
    return {"priority": int(value)} if value and re.fullmatch(rb"-?[1-9]|0", value) else None


def read_holdfor(value: bytes | None, smtputf8: bool) -> Attributes | None:
    return {"hold_for": int(value)} if value and re.fullmatch(rb"[1-9][0-9]{0,8}", value) else None


def read_holduntil(value: bytes | None, smtputf8: bool) -> Attributes | None:
    moment = None if value is None else date_time(value)
    return None if moment is None else {"hold_until": moment}


def read_notify(value: bytes | None, smtputf8: bool) -> Attributes | None:
    words = (value or b"").lower().split(b",")
    if words == [b"never"]:
        return {"notify": NEVER}
    bits = {b"success": SUCCESS, b"failure": FAILURE, b"delay": DELAY}
    if not all(word in bits for word in words):
        return None
    return {"notify": sum(bits[word] for word in set(words))}


def read_orcpt(value: bytes | None, smtputf8: bool) -> Attributes | None:
    kind, semicolon, address = (value or b"").partition(b";")
    if not semicolon or len(value or b"") > 500 or not ADDRESS_TYPE.fullmatch(kind):
        return None
    if smtputf8 and kind.lower() == b"utf-8":
        return {"orcpt": value} if is_xtext(address, 126, XTEXT_OR_HIGH) and is_utf8(address) else None
    return {"orcpt": value} if is_xtext(address, 126) else None


OF_MAIL = {
    "SIZE": (read_size, "needs 1 to 20 digits"),
    "BODY": (read_body, "needs 7BIT, 8BITMIME or BINARYMIME"),
    "SMTPUTF8": (read_smtputf8, "takes no value"),
    "REQUIRETLS": (read_requiretls, "takes no value"),
    "RET": (read_ret, "needs FULL or HDRS"),
    "ENVID": (read_envid, "needs xtext of 1 to 100 octets that stands for printable ASCII"),
    "AUTH": (read_auth, "needs <> or xtext without control characters"),
    "MT-PRIORITY": (read_priority, "needs a number from -9 to 9"),
    "HOLDFOR": (read_holdfor, "needs 1 to 9 digits, the first not 0"),
    "HOLDUNTIL": (read_holduntil, "needs a date and time of RFC 3339, from 1970 on"),
}
OF_RCPT = {
    "NOTIFY": (read_notify, "needs NEVER or a list of SUCCESS, FAILURE, DELAY"),
    "ORCPT": (read_orcpt, "needs type;xtext of up to 500 octets that stands for printable ASCII"),
}


def read_parameters(verb: str, rest: bytes, offers: int, smtputf8: bool) -> Attributes:
    known = OF_MAIL if verb == "MAIL" else OF_RCPT
    found: Attributes = {}
    seen = set()
    for token in filter(None, rest.split(b" ")):
        match = PARAMETER.fullmatch(token)
        if match is None:
            raise Refused("501 5.5.4 Malformed parameter")
        keyword = match[1].decode("ascii").upper()
        if keyword not in known:
            raise Refused(f"555 5.5.4 {verb} parameter not recognized")
        if not offers & OFFERS[keyword]:
            raise Refused(f"555 5.5.4 {keyword} is not offered here")
        if keyword in seen:
            raise Refused(f"501 5.5.4 {keyword} is given twice")
        seen.add(keyword)
        read, needs = known[keyword]
        attributes = read(match[2], smtputf8)
        if attributes is None:
            raise Refused(f"501 5.5.4 {keyword} {needs}")
        found |= attributes
    if found.get("body") == 3 and not offers & OFFER_BINARYMIME:
        raise Refused("555 5.5.4 BODY=BINARYMIME is not offered here")
    if {"HOLDFOR", "HOLDUNTIL"} <= seen:
        raise Refused("501 5.5.4 HOLDFOR and HOLDUNTIL exclude each other")
    return found


# --- commands ---


def read_transaction_command(verb: str, argument: bytes, offers: int, smtputf8: bool) -> Attributes:
    recipient = verb == "RCPT"
    smtputf8 = smtputf8 and bool(offers & OFFER_SMTPUTF8)
    preposition = b"to:" if recipient else b"from:"
    argument = argument.lstrip(b" ")
    if not argument.lower().startswith(preposition):
        raise Refused(f"501 5.5.4 Syntax: {verb} {preposition.decode().upper()}<address> [parameters]")
    try:
        path = read_path(argument[len(preposition) :], recipient=recipient)
        if path.rest[:1] not in (b"", b" "):
            raise PathFault("only a space may follow it", 501, "5.5.4")
        if recipient:
            check_non_ascii(path, allowed=smtputf8)
        parameters = read_parameters(verb, path.rest, offers, smtputf8)
        if not recipient:
            check_non_ascii(path, allowed="smtputf8" in parameters)
    except PathFault as fault:
        raise Refused(fault.reply(recipient=recipient)) from None
    return {
        "mailbox": path.mailbox,
        "domain": path.domain,
        "internationalised": path.internationalised,
        **parameters,
    }


def read_bdat(argument: bytes) -> Attributes:
    argument = argument.strip(b" ")
    digits = re.match(rb"[0-9]*", argument)[0]
    if digits and int(digits) > 2**63 - 1:
        raise Refused("501 5.5.4 BDAT size is over 9223372036854775807")
    match = re.fullmatch(rb"([0-9]+)( +[Ll][Aa][Ss][Tt])?", argument)
    if match is None:
        raise Refused("501 5.5.4 Syntax: BDAT size [LAST]")
    return {"size": int(digits), "last": match[2] is not None}


def read_greeting(argument: bytes) -> Attributes:
    name = argument.strip(b" ")
    if not name:
        raise Refused("501 5.5.4 Host name or address literal is missing")
    if len(name) > 255:
        raise Refused("501 5.5.4 Host name is longer than 255 octets")
    for octet in name:
        if octet > 127:
            raise Refused("501 5.5.4 Host name: non-ASCII octets are not allowed")
        if octet == 32:
            raise Refused("501 5.5.4 Host name: space is not allowed")
    return {"name": name}


def read_text(argument: bytes, *, required: bool) -> Attributes:
    text = argument.strip(b" ")
    if required and not text:
        raise Refused("501 5.5.4 This command needs an argument")
    if not is_utf8(text):
        raise Refused("501 5.5.2 Argument is not well-formed UTF-8")
    return {"text": text}


def read_command(line: bytes, offers: int, smtputf8: bool) -> Attributes:
    word, space, behind = line.partition(b" ")
    verb = word.decode("latin-1").upper() if word.isascii() else ""
    argument = space + behind
    if CONTROL.search(line):
        raise Refused("501 5.5.2 Control character in command line")
    if verb in ("MAIL", "RCPT"):
        return {"verb": verb, **read_transaction_command(verb, argument, offers, smtputf8)}
    if verb == "BDAT":
        return {"verb": verb, **read_bdat(argument)}
    if verb in ("HELO", "EHLO", "LHLO"):
        return {"verb": verb, **read_greeting(argument)}
    if verb in ("NOOP", "HELP", "VRFY", "EXPN", "AUTH", "XCLIENT"):
        return {"verb": verb, **read_text(argument, required=verb not in ("NOOP", "HELP"))}
    if verb in ("DATA", "RSET", "QUIT", "STARTTLS"):
        if argument.strip(b" "):
            raise Refused("501 5.5.4 This command takes no argument")
        return {"verb": verb}
    raise Refused("500 5.5.2 Command not recognized")


NOTHING: Attributes = {
    "mailbox": None,
    "domain": None,
    "internationalised": False,
    "size": None,
    "body": 0,
    "smtputf8": False,
    "requiretls": False,
    "ret": 0,
    "envid": None,
    "auth": None,
    "priority": None,
    "hold_for": None,
    "hold_until": None,
    "notify": 0,
    "orcpt": None,
    "last": False,
    "name": None,
    "text": None,
}


def parse_command(line: bytes, *, offers: int = EVERY_OFFER, smtputf8: bool = False) -> Attributes | bytes:
    """All attributes of the command, or the reply line that refuses it."""
    try:
        return {**NOTHING, **read_command(line, offers, smtputf8)}
    except Refused as refusal:
        return f"{refusal}\r\n".encode("ascii")


def attributes_of(result: object) -> Attributes | bytes:
    """What the compiled parser returned, in the terms of this model."""
    reply = getattr(result, "reply", None)
    if reply is not None:
        return reply
    return {"verb": result.verb.name.removeprefix("VERB_"), **{name: getattr(result, name) for name in NOTHING}}
