"""Sessions as they happen, for who watches them: `angarium trace --live`.

    ServerSession, ClientSession ──(only while somebody watches)──► Hub ──► Watcher ──► the control socket

Job: a Hub puts itself into Reception.watch and Dialogues.watch with the first Watcher that wants what they tell, and
takes itself out with the last, so that while nobody watches a session compares a pointer and that is all. Each Watcher
keeps the lines of a session back until its filter is met, and then hands them on as they come.

**Filters** hold together: `client` is of sessions that come in (a network), `site` of those that go out; `sender` (an
address, or `@domain`) and `to_domain` are of the transaction, and asked for anew with each MAIL. What can match nothing
is refused. A session that is joined in the middle is shown from its next MAIL on where a filter is of the transaction.

**Secrets.** Mail data never comes here. Of AUTH the mechanism is shown, of XCLIENT that there was one, of the lines of
an exchange and of what is no command of SMTP nothing: it may be a password that went astray.

Bounds, so that watching slows no mail: LOOKS_A_SECOND pieces are looked at on this worker, and LINES_A_SECOND lines
made of them; MOST_WAITING lines wait for one watcher, MOST_KEPT lines of MOST_SESSIONS sessions are kept back. What is
beyond is dropped and counted, and the next line that goes out says so; of a transaction of which something was missed
nothing more is shown where that might be what was not asked for. Sessions and transactions that are known not to be
wanted are passed over before they count, so a narrow filter sees all that it asks for on a busy relay. It never fails.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

import msgspec

from angarium.app.moment import rfc3339
from angarium.mail.address import folded_domain

if TYPE_CHECKING:
    from angarium._core.dialogue import Dialogues
    from angarium._core.server_session import Reception

__all__ = ["Hub", "TooManyWatchers", "WatchFilter", "Watcher"]

MOST_WATCHERS = 8
MOST_WAITING = 2000
MOST_SESSIONS = 2000
MOST_KEPT = 60
MOST_IGNORED = 20_000  # sessions known not to be wanted
LINES_A_SECOND = 5000
LOOKS_A_SECOND = 20_000
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
    __slots__ = ("asleep", "kept", "prelude", "sender", "to_domain")

    def __init__(self) -> None:
        self.kept: deque[dict[str, Any]] = deque(maxlen=MOST_KEPT)
        self.prelude = -1  # lines in front of the first MAIL that are kept back; -1: it has not come
        self.sender = self.to_domain = False
        self.asleep = False  # this transaction is not wanted: until the next MAIL

    def sleep(self) -> None:
        """What was kept of this transaction is not wanted, nor is what comes of it."""
        self.asleep = True
        while len(self.kept) > max(self.prelude, 0):
            self.kept.pop()


class Watcher:
    """One who watches this worker. `dropped`: pieces and lines that it did not get."""

    def __init__(self, wanted: WatchFilter) -> None:
        """ValueError: the filter's client is no network, or nothing can match it."""
        self._network = ipaddress.ip_network(wanted.client, strict=False) if wanted.client else None
        self._sender = wanted.sender.strip("<>").lower().encode()
        self._to_domain = _domain(wanted.to_domain)
        self._site = wanted.site.lower()
        if self._network is not None and self._site:
            raise ValueError(
                "nothing is both from a client and to a site: client is of what comes in, site of the rest"
            )
        if wanted.sender and b"@" not in self._sender and self._sender:
            raise ValueError(f'"{wanted.sender}" is no address: to mean any at a domain, write "@{wanted.sender}"')
        self.wants_in = not self._site
        self.wants_out = self._network is None
        self._by_sender = bool(wanted.sender)  # empty: the null reverse path, where it was asked for
        self._of_transaction = bool(self._by_sender or self._to_domain)
        self._sessions: OrderedDict[tuple[str, int], _Session] = OrderedDict()
        self._ignored: set[tuple[str, int]] = set()
        self._lines: deque[dict[str, Any]] = deque()
        self.ready = asyncio.Event()
        self.dropped = 0

    def take(self) -> list[dict[str, Any]]:
        """The lines that are ready."""
        lines = list(self._lines)
        self._lines.clear()
        self.ready.clear()
        return lines

    def wants(self, side: str, connection: int, direction: str, octets: bytes) -> bool:
        """Whether this piece must be looked at; quick, for most of a busy relay's are not."""
        key = (side, connection)
        if key in self._ignored:
            if direction == "-":
                self._ignored.discard(key)
            return False
        session = self._sessions.get(key)
        if session is None or not session.asleep:
            return True
        if direction == "-":
            del self._sessions[key]
            return False
        return direction == "C" and octets[:5].lower() == b"mail "

    def miss(self, side: str, connection: int, direction: str) -> None:
        """A piece that is wanted, or may be, goes by unseen."""
        self.dropped += 1
        session = self._sessions.get((side, connection))
        if session is None:
            return
        if direction == "-":
            del self._sessions[side, connection]
        elif direction == "C" and self._of_transaction:
            session.sleep()  # it may be another transaction by now

    def see(self, side: str, connection: int, direction: str, peer: str, place: str, octets: bytes) -> int:
        """A piece of a session; `place`: its listener, or its site. Returns how many lines were made of it."""
        key = (side, connection)
        session = self._sessions.get(key)
        if session is None:
            if not self._may_be(side, peer, place):
                if direction != "-":
                    if len(self._ignored) >= MOST_IGNORED:
                        self._ignored.clear()
                    self._ignored.add(key)
                return 0
            if len(self._sessions) >= MOST_SESSIONS:
                self._sessions.popitem(last=False)
            session = self._sessions[key] = _Session()
            if self._of_transaction and direction != "+":
                session.prelude = 0
                session.asleep = octets[:5].lower() != b"mail "
        if direction == "C":
            self._note(session, octets)
        if session.asleep:
            return 0
        line = {
            "time": rfc3339(time.time()),
            "side": side,
            "session": f"{connection & 0xFFFFFFFF:08x}",
            "peer": peer,
            "at": place,
            "who": direction,
            "text": octets.decode("utf-8", "replace").strip("\r\n"),
        }
        if (session.sender or not self._by_sender) and (session.to_domain or not self._to_domain):
            while session.kept:
                self._hand_on(session.kept.popleft())
            session.prelude = 0
            self._hand_on(line)
        else:
            session.kept.append(line)
        if direction == "-":
            del self._sessions[key]
        return 1

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
        if not self._of_transaction:
            return
        for line in octets.lower().split(b"\r\n"):
            path = line[line.find(b"<") + 1 : line.find(b">")]
            if line.startswith(b"mail from:"):
                if session.prelude < 0:
                    session.prelude = len(session.kept)
                session.sleep()  # the transaction before it
                session.asleep = False
                session.sender = path == self._sender or (self._sender.startswith(b"@") and path.endswith(self._sender))
                session.to_domain = False
                if self._by_sender and not session.sender:
                    session.sleep()
            elif line.startswith(b"rcpt to:"):
                session.to_domain = session.to_domain or path.rpartition(b"@")[2] == self._to_domain
            elif line[:4] in {b"data", b"bdat"} and self._to_domain and not session.to_domain:
                session.sleep()

    def _hand_on(self, line: dict[str, Any]) -> None:
        if len(self._lines) >= MOST_WAITING:
            self.dropped += 1
            return
        self._lines.append(line)
        self.ready.set()


def _domain(wanted: str) -> bytes:
    """As it stands in commands: mostly in ASCII, whoever wrote it."""
    if "@" in wanted:
        raise ValueError(f'"{wanted}" is no domain')
    return folded_domain(wanted.encode()) if wanted else b""


class Hub:
    """Of one worker. `seen`: pieces that came by while somebody watched."""

    def __init__(self, reception: Reception, dialogues: Dialogues) -> None:
        self._reception = reception
        self._dialogues = dialogues
        self._watchers: list[Watcher] = []
        self._second = 0.0
        self._lines_left = self._looks_left = 0
        self.seen = 0

    @property
    def watchers(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def add(self, watcher: Watcher) -> None:
        """Show it what is said from now on."""
        if len(self._watchers) >= MOST_WATCHERS:
            raise TooManyWatchers(f"{MOST_WATCHERS} watch already")
        self._watchers.append(watcher)
        self._attend()

    def remove(self, watcher: Watcher) -> None:
        """Show it nothing more."""
        self._watchers.remove(watcher)
        self._attend()

    def _attend(self) -> None:
        """Hear what somebody wants to see, and nothing else."""
        self._reception.watch = self._came if any(watcher.wants_in for watcher in self._watchers) else None
        self._dialogues.watch = self._went if any(watcher.wants_out for watcher in self._watchers) else None

    def _came(self, connection: int, direction: str, client: bytes, listener: bytes, octets: bytes) -> None:
        self._tell("in", connection, direction, client, listener, octets)

    def _went(self, connection: int, direction: str, host: bytes, site: bytes, octets: bytes) -> None:
        self._tell("out", connection, direction, host, site, octets)

    def _tell(self, side: str, connection: int, direction: str, peer: bytes, place: bytes, octets: bytes) -> None:
        self.seen += 1
        wanting = [watcher for watcher in self._watchers if watcher.wants(side, connection, direction, octets)]
        if not wanting:
            return
        if not self._has_room():
            for watcher in wanting:
                watcher.miss(side, connection, direction)
            return
        if side == "in":
            direction, octets = redacted(direction, octets)
        for watcher in wanting:
            self._lines_left -= watcher.see(
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
            self._lines_left, self._looks_left = LINES_A_SECOND, LOOKS_A_SECOND
        self._looks_left -= 1
        return self._looks_left >= 0 and self._lines_left > 0


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
