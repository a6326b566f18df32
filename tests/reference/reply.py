"""SMTP replies in plain Python: what angarium._core.reply must make of octets, however they are split.

`parse_replies` reads a whole input at once. It returns the replies that are complete and, if the input goes wrong, what
is wrong with the reply behind them. A bound counts as soon as one octet is over it, even on a line that has no end yet.
"""

import re

LINE_OCTETS = 2048
LINE = re.compile(rb"([0-9]{3})(?:([ -])(.*))?", re.DOTALL)
STATUS = re.compile(rb"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?: +|$)", re.DOTALL)

EnhancedStatus = tuple[int, int, int]
Reply = tuple[int, EnhancedStatus | None, bytes]


class Malformed(Exception):
    """This is not a reply."""


def read_line(line: bytes, expected: int | None) -> tuple[int, bool, bytes]:
    """Code, whether it is the last line, and text (RFC 5321 §4.2)."""
    line = line.rstrip(b"\r")
    if not re.match(rb"[0-9]{3}", line):
        raise Malformed("reply line does not begin with three digits")
    code = int(line[:3])
    if not 200 <= code <= 599:
        raise Malformed("reply code is not from 200 to 599")
    match = LINE.fullmatch(line)
    if match is None:
        raise Malformed("neither space nor hyphen behind the reply code")
    if expected not in (None, code):
        raise Malformed("reply code changes between lines")
    return code, match[2] != b"-", match[3] or b""


def read_status(text: bytes, code: int) -> tuple[EnhancedStatus | None, bytes]:
    """The enhanced status in front of a text, and the text behind it (RFC 3463 §2)."""
    match = STATUS.match(text)
    if match is None or int(match[1]) != code // 100:
        return None, text
    return (int(match[1]), int(match[2]), int(match[3])), text[match.end() :]


def read_reply(lines: list[tuple[int, bytes]]) -> Reply:
    status = None
    texts = []
    for code, text in lines:
        found, behind = read_status(text, code)
        if status is None:
            status = found
        texts.append(behind if found is not None and found == status else text)
    return lines[0][0], status, b"\n".join(texts)


def bound_broken(line: bytes, ended: bool, octets: int, max_octets: int) -> str | None:
    """The bound that is reached first, if any; `octets` are those of the reply's lines before this one."""
    room = max_octets - octets
    if len(line) > min(LINE_OCTETS, room):
        return "reply line is over 2048 octets" if room >= LINE_OCTETS else "reply is over max_octets"
    if len(line) + ended > room:
        return "reply is over max_octets"
    return None


def parse_replies(data: bytes, max_octets: int = 65536, max_lines: int = 128) -> tuple[list[Reply], str | None]:
    replies: list[Reply] = []
    lines: list[tuple[int, bytes]] = []
    octets = 0
    *whole, rest = data.split(b"\n")
    for number, line in enumerate([*whole, rest]):
        ended = number < len(whole)
        broken = bound_broken(line, ended, octets, max_octets)
        if broken is not None:
            return replies, broken
        if not ended:
            break
        if len(lines) == max_lines:
            return replies, "reply is over max_lines"
        octets += len(line) + 1
        try:
            code, last, text = read_line(line, lines[0][0] if lines else None)
        except Malformed as error:
            return replies, str(error)
        lines.append((code, text))
        if last:
            replies.append(read_reply(lines))
            lines = []
            octets = 0
    return replies, None
