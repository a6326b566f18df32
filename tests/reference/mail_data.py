"""Reference model of the mail data scanner: one octet at a time, RFC 5321 §4.5.2 spelled out as a state machine."""

from __future__ import annotations

import enum
from dataclasses import dataclass

CR, LF, DOT = 0x0D, 0x0A, 0x2E


class State(enum.Enum):
    LINE_START = enum.auto()
    LINE = enum.auto()
    CR = enum.auto()  # produced, and may be the first half of CRLF
    DOT = enum.auto()  # began a line, not produced
    DOT_CR = enum.auto()  # neither produced
    ENDED = enum.auto()


@dataclass
class MailDataModel:
    """The compiled MailDataScanner's twin."""

    state: State = State.LINE_START
    consumed: int = 0
    bare_cr: bool = False
    bare_lf: bool = False
    eight_bit: bool = False
    nul: bool = False
    line_length: int = 0
    longest_line: int = 0
    octets: int = 0

    @property
    def ended(self) -> bool:
        return self.state is State.ENDED

    @property
    def ends_in_bare_cr(self) -> bool:
        return self.state is State.CR

    def feed(self, data: bytes) -> bytes:
        """Octets of DATA."""
        produced = bytearray()
        self.consumed = 0
        for octet in data:
            if self.ended:
                break
            self.consumed += 1
            self._take(octet, produced)
        return bytes(produced)

    def chunk(self, data: bytes) -> None:
        """Octets of a BDAT chunk: a dot is as good as any octet."""
        for octet in data:
            self._take_data(octet, bytearray())
        self.consumed = len(data)

    def _take(self, octet: int, produced: bytearray) -> None:
        match self.state, octet:
            case State.LINE_START, 0x2E:
                self.state = State.DOT
            case State.DOT, 0x0D:
                self.state = State.DOT_CR
            case State.DOT_CR, 0x0A:
                self.state = State.ENDED
            case State.DOT, _:  # not the end: the dot is dropped
                self.state = State.LINE
                self._take_data(octet, produced)
            case State.DOT_CR, _:  # not the end: the dot is dropped, the CR is data
                self.state = State.LINE
                self._take_data(CR, produced)
                self._take_data(octet, produced)
            case _:
                self._take_data(octet, produced)

    def _take_data(self, octet: int, produced: bytearray) -> None:
        """An octet that is mail data for certain."""
        produced.append(octet)
        self.octets += 1
        self.eight_bit |= octet > 127
        self.nul |= octet == 0
        behind_cr = self.state is State.CR
        if octet == LF and behind_cr:
            self.state = State.LINE_START
            self.line_length = 0
            return
        if behind_cr:
            self.bare_cr = True
            self._lengthen()
        if octet == CR:
            self.state = State.CR
            return
        self.bare_lf |= octet == LF
        self.state = State.LINE
        self._lengthen()

    def _lengthen(self) -> None:
        self.line_length += 1
        self.longest_line = max(self.longest_line, self.line_length)


def stuff(data: bytes) -> bytes:
    """Dot-stuffing: RFC 5321 §4.5.2, a line being what CRLF ends."""
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in data.split(b"\r\n"))
