"""Sessions as they happen, for who watches them: `angarium trace --live`.

    ServerSession, ClientSession ──(only while somebody watches)──► Hub ──► Watcher ──► the control socket

Job: a Hub puts itself into Reception.watch and Dialogues.watch with the first Watcher and takes itself out with the
last, so that while nobody watches a session compares a pointer and that is all. Each Watcher keeps the lines of a
session back until its filter is met, and then hands them on as they come.

**Filters** hold together: `client` is of sessions that come in (a network), `site` of those that go out; `sender` (an
address, or `@domain`) and `to_domain` are of the transaction, and asked for anew with each MAIL.

**Secrets.** Mail data never comes here. Of AUTH the mechanism is shown, of XCLIENT that there was one, of the lines of
an exchange and of what is no command of SMTP nothing: it may be a password that went astray.

Bounds, so that watching slows no mail: LINES_A_SECOND are looked at on this worker, MOST_WAITING lines wait for one
watcher, MOST_KEPT lines of MOST_SESSIONS sessions are kept back. What is beyond is dropped and counted, and the next
line that goes out says so. It never fails.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

import msgspec

from angarium.app.moment import rfc3339

if TYPE_CHECKING:
    from angarium._core.dialogue import Dialogues
    from angarium._core.server_session import Reception

__all__ = ["Hub", "TooManyWatchers", "WatchFilter", "Watcher"]

MOST_WATCHERS = 8
MOST_WAITING = 2000
MOST_SESSIONS = 2000
MOST_KEPT = 60
LINES_A_SECOND = 5000
TEXT_OCTETS = 1000
_SHOWN = frozenset(
    b"EHLO HELO LHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY EXPN HELP STARTTLS".split()  # RFC 5321, 2033, 3030, 3207
)


class WatchFilter(msgspec.Struct, forbid_unknown_fields=True):
    """Which sessions are asked for; empty: all."""

    client: str = ""
    sender: str = ""
    to_domain: str = ""
    site: str = ""


class TooManyWatchers(ValueError):
    """MOST_WATCHERS watch already."""


class _Session:
    __slots__ = ("kept", "matched", "prelude", "sender", "to_domain")

    def __init__(self, matched: bool) -> None:
        self.matched = matched  # what its connection says
        self.kept: deque[dict[str, Any]] = deque(maxlen=MOST_KEPT)
        self.prelude = -1  # lines in front of the first MAIL that are kept back; -1: it has not come
        self.sender = self.to_domain = False


class Watcher:
    """One who watches this worker. `dropped`: lines that it did not get."""

    def __init__(self, wanted: WatchFilter) -> None:
        """ValueError: the filter's client is no network."""
        self._network = ipaddress.ip_network(wanted.client, strict=False) if wanted.client else None
        self._sender = wanted.sender.strip("<>").lower().encode()
        self._to_domain = wanted.to_domain.lower().encode()
        self._site = wanted.site.lower()
        self._sessions: OrderedDict[tuple[str, int], _Session] = OrderedDict()
        self._lines: deque[dict[str, Any]] = deque()
        self.ready = asyncio.Event()
        self.dropped = 0

    def take(self) -> list[dict[str, Any]]:
        """The lines that are ready."""
        lines = list(self._lines)
        self._lines.clear()
        self.ready.clear()
        return lines

    def see(self, side: str, connection: int, direction: str, peer: str, place: str, octets: bytes) -> None:
        """A piece of a session; `place`: its listener, or its site."""
        key = (side, connection)
        session = self._sessions.get(key)
        if session is None:
            if len(self._sessions) >= MOST_SESSIONS:
                self._sessions.popitem(last=False)
            session = self._sessions[key] = _Session(self._may_be(side, peer, place))
        if not session.matched:
            if direction == "-":
                del self._sessions[key]
            return
        if direction == "C":
            self._note(session, octets)
        line = {
            "time": rfc3339(time.time()),
            "side": side,
            "session": f"{connection & 0xFFFFFFFF:08x}",
            "peer": peer,
            "at": place,
            "who": direction,
            "text": octets.decode("utf-8", "replace").strip("\r\n"),
        }
        if (session.sender or not self._sender) and (session.to_domain or not self._to_domain):
            while session.kept:
                self._hand_on(session.kept.popleft())
            session.prelude = 0
            self._hand_on(line)
        else:
            session.kept.append(line)
        if direction == "-":
            del self._sessions[key]

    def _may_be(self, side: str, peer: str, place: str) -> bool:
        if self._network is not None:
            try:
                if side != "in" or ipaddress.ip_address(peer) not in self._network:
                    return False
            except ValueError:
                return False
        return not self._site or (side == "out" and place.lower() == self._site)

    def _note(self, session: _Session, octets: bytes) -> None:
        """What a command says of who writes to whom."""
        for line in octets.lower().split(b"\r\n"):
            path = line[line.find(b"<") + 1 : line.find(b">")]
            if line.startswith(b"mail from:"):
                if session.prelude < 0:
                    session.prelude = len(session.kept)
                while len(session.kept) > session.prelude:  # of a transaction that was not asked for
                    session.kept.pop()
                session.sender = path == self._sender or (self._sender.startswith(b"@") and path.endswith(self._sender))
                session.to_domain = False
            elif line.startswith(b"rcpt to:"):
                session.to_domain = session.to_domain or path.rpartition(b"@")[2] == self._to_domain

    def _hand_on(self, line: dict[str, Any]) -> None:
        if len(self._lines) >= MOST_WAITING:
            self.dropped += 1
            return
        self._lines.append(line)
        self.ready.set()


class Hub:
    """Of one worker."""

    def __init__(self, reception: Reception, dialogues: Dialogues) -> None:
        self._reception = reception
        self._dialogues = dialogues
        self._watchers: list[Watcher] = []
        self._second = 0.0
        self._left = 0

    @property
    def watchers(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def add(self, watcher: Watcher) -> None:
        """Show it what is said from now on."""
        if len(self._watchers) >= MOST_WATCHERS:
            raise TooManyWatchers(f"{MOST_WATCHERS} watch already")
        self._watchers.append(watcher)
        self._reception.watch = self._came
        self._dialogues.watch = self._went

    def remove(self, watcher: Watcher) -> None:
        """Show it nothing more."""
        self._watchers.remove(watcher)
        if not self._watchers:
            self._reception.watch = None
            self._dialogues.watch = None

    def _came(self, connection: int, direction: str, client: bytes, listener: bytes, octets: bytes) -> None:
        if self._has_room():
            direction, octets = redacted(direction, octets)
            self._tell("in", connection, direction, client, listener, octets)

    def _went(self, connection: int, direction: str, host: bytes, site: bytes, octets: bytes) -> None:
        if self._has_room():
            self._tell("out", connection, direction, host, site, octets)

    def _tell(self, side: str, connection: int, direction: str, peer: bytes, place: bytes, octets: bytes) -> None:
        for watcher in self._watchers:
            watcher.see(
                side,
                connection,
                direction,
                peer.decode("utf-8", "replace"),
                place.decode("utf-8", "replace"),
                octets[:TEXT_OCTETS],
            )

    def _has_room(self) -> bool:
        now = time.monotonic()
        if now - self._second >= 1.0:
            self._second = now
            self._left = LINES_A_SECOND
        self._left -= 1
        if self._left >= 0:
            return True
        for watcher in self._watchers:
            watcher.dropped += 1
        return False


def redacted(direction: str, octets: bytes) -> tuple[str, bytes]:
    """A piece of a session that comes in, without secrets."""
    if direction == "A":
        return "C", b"***"
    if direction == "S":
        if octets.startswith(b"334"):
            return direction, b"334 ***"
        return direction, octets
    if direction != "C":
        return direction, octets
    verb, _, rest = octets.strip().partition(b" ")
    if verb.upper() == b"AUTH":
        mechanism, _, more = rest.partition(b" ")
        return direction, b"AUTH " + mechanism[:40] + (b" ***" if more else b"")
    if verb.upper() == b"XCLIENT":
        return direction, b"XCLIENT ***"
    if verb.upper() not in _SHOWN:
        return direction, b"*** (%d octets that are no command)" % len(octets)
    return direction, octets
