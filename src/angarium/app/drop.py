"""The way of this machine's own mail into the relay: the socket of `angarium-sendmail`, and the drop folder.

Job: the first worker of a node serves `sendmail.socket`, and looks into the drop folder at its start and whenever the
folder has changed (once a second it is asked). Each file is offered to a session like any other, so that limits,
permissions and rewriting hold for it as for a dialogue; angarium.queue.dropped says how it is queued exactly once.

Output: messages, with the event `reception` of their session. A file that is refused for good is put aside, with the
event `drop_refused`, a line of the log and a count; one that is refused for the moment waits RETRY_S.

Fails: a socket or folder that cannot be used is said once, tried again every RETRY_S, and holds nothing else up.
Bounds: MOST_AT_ONCE files in one go, one after the other.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from angarium._core.counters import Slot
from angarium._core.named_intake import NamedIntake
from angarium._core.record import MessageFlag
from angarium._core.server_session import Reception
from angarium.ingress.listener import make_profile
from angarium.ingress.local import LocalFailure, introduce, listen_locally, remove_socket, user_name
from angarium.queue.dropped import BadFile, DropError, DropFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.counters import Counters
    from angarium._core.dispatch import Dispatcher, JournalIntake
    from angarium._core.event_log import EventLog
    from angarium._core.memory_budget import MemoryBudget
    from angarium._core.record import Message
    from angarium.config.model import Config, Listener
    from angarium.policy.quota import Quotas
    from angarium.queue.dropped import Dropped

__all__ = ["LocalMail", "settle_crash"]

log = logging.getLogger(__name__)

RETRY_S = 10.0
MOST_AT_ONCE = 100
EVERY_COMMAND = 1_000_000_000  # a second: a file is no client that could be too fast


def settle_crash(config: Config, shards: list[int], is_queued: Callable[[int], bool]) -> None:
    """Before anything is delivered: what a crash left between the drop folder and the shards of this worker."""
    if config.sendmail is None:
        return
    folder = DropFolder(config.sendmail.drop, longest_octets=0)
    try:
        removed, returned = folder.recover(shards, is_queued)
    except FileNotFoundError:
        return
    except OSError as failure:
        log.error("the drop folder %s: %s", folder.path, failure.strerror)
        return
    if removed or returned:
        log.info("drop folder: %d files were queued already, %d go back", removed, returned)


class LocalMail:
    """What the first worker does for `[sendmail]`."""

    def __init__(
        self,
        config: Config,
        listener: Listener,
        reception: Reception,
        journals: JournalIntake,
        dispatcher: Dispatcher,
        *,
        now: Callable[[], float],
        quotas: Quotas | None = None,
    ) -> None:
        """now: monotonic seconds. quotas: of senders, where permissions count."""
        assert config.sendmail is not None
        self._now = now
        self._path = config.sendmail.socket
        self._reception = reception
        self._profile = make_profile(config, listener, None, reception, quotas=quotas)
        self._server: asyncio.Server | None = None
        limits = replace(config.limits_of(listener), commands_per_second=EVERY_COMMAND)
        self._folder = DropFolder(config.sendmail.drop, longest_octets=limits.message_size_octets)
        self._pickup = Pickup(
            self._folder,
            make_profile(config, replace(listener, limits=limits), None, reception, quotas=quotas),
            journals,
            dispatcher,
            counters=reception.counters,
            events=reception.events,
            memory=reception.memory,
        )
        self._seen: tuple[int, int] | None = None  # of the folder: what changes when a file comes
        self._not_before = 0.0
        self._said: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self) -> None:
        """Serve the socket, make the folder, and begin to take what is in it."""
        await self._open()
        try:
            self._folder.prepare()
        except DropError as failure:
            self._say(f"the drop folder: {failure}")
        self._look()

    def tick(self) -> None:
        """Call it once a second."""
        self._pickup.pace()
        if self._task is None and not self._closing:
            self._look()

    async def close(self) -> None:
        """No more connections and no more files; the one under way is settled."""
        self._closing = True
        if self._server is not None:
            self._server.close()
            remove_socket(self._path)
        self._pickup.stop()
        if self._task is not None:
            await self._task

    async def _open(self) -> None:
        if self._server is not None:
            return
        try:
            self._server = await listen_locally(self._path, self._profile, self._reception)
        except LocalFailure as failure:
            self._say(str(failure))

    def _look(self) -> None:
        now = self._now()
        if now < self._not_before:
            return
        try:
            found = self._folder.path.stat()
        except OSError:
            seen = None
        else:
            seen = (found.st_mtime_ns, found.st_ino)
        if seen is not None and seen == self._seen and self._server is not None:
            return
        self._seen = seen
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        again = False
        try:
            await self._open()
            self._folder.prepare()
            self._seen = None if await self._pickup.run() else self._seen
        except (DropError, OSError) as failure:
            self._say(f"the drop folder: {failure}")
            again = True
        else:
            again = self._pickup.returned or self._server is None
        finally:
            self._task = None
        if again:
            self._seen = None
            self._not_before = self._now() + RETRY_S

    def _say(self, text: str) -> None:
        """Once for each trouble."""
        if text not in self._said:
            self._said.add(text)
            log.error("%s; tried again every %d s", text, RETRY_S)


class _Line:
    """The transport of a session that speaks with a file: it keeps what the session writes."""

    def __init__(self) -> None:
        self._octets = b""
        self._written = asyncio.Event()
        self.closed = False

    def write(self, octets: bytes) -> None:
        self._octets += octets
        self._written.set()

    def close(self) -> None:
        self.closed = True
        self._written.set()

    abort = close

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        """Nothing is read: the file is fed piece by piece."""

    def resume_reading(self) -> None:
        """As above."""

    async def reply(self) -> str:
        """The last line of the next reply."""
        while True:
            end = self._octets.find(b"\r\n")
            if end >= 0:
                line, self._octets = self._octets[:end], self._octets[end + 2 :]
                if line[3:4] != b"-":
                    return line.decode("utf-8", "replace")
            elif self.closed:
                return "421 4.3.2 The session ended"
            else:
                self._written.clear()
                await self._written.wait()


class Pickup:
    """Takes the files of one drop folder."""

    def __init__(
        self,
        folder: DropFolder,
        profile: Any,
        journals: JournalIntake,
        dispatcher: Dispatcher,
        *,
        counters: Counters,
        events: EventLog,
        memory: MemoryBudget,
    ) -> None:
        self.returned = False  # by the last run: some file waits for a better moment
        self._folder = folder
        self._profile = profile
        self._journals = journals
        self._dispatcher = dispatcher
        self._counters = counters
        self._events = events
        self._intake = NamedIntake(journals)
        self._reception = Reception(counters, events, self._intake, memory)
        self._stopped = False

    def stop(self) -> None:
        """Take no more files."""
        self._stopped = True
        self._reception.draining = True

    def pace(self) -> None:
        """Let a session go on that was made to wait for memory."""
        self._reception.pace()

    async def run(self) -> bool:
        """Take what is there, MOST_AT_ONCE files at most; whether there is more."""
        loop = asyncio.get_running_loop()
        self.returned = False
        names = await loop.run_in_executor(None, self._folder.waiting)
        self._counters.set(Slot.INGRESS_DROP_WAITING, len(names))
        claimed: dict[int, str] = {}
        for name in names[:MOST_AT_ONCE]:
            number = self._journals.new_id()
            if self._folder.claim(name, number):
                claimed[number] = name
        if not claimed:
            return False
        await loop.run_in_executor(None, self._folder.sync, self._folder.taken)
        queued: list[Message] = []
        try:
            for number, name in claimed.items():
                if self._stopped or self.returned:
                    self._give_back(number, name)
                else:
                    await self._take(number, name, queued)
        finally:
            await self._let_go(queued)
        self._counters.set(Slot.INGRESS_DROP_WAITING, max(0, len(names) - len(queued)))
        return len(names) > MOST_AT_ONCE

    async def _let_go(self, queued: list[Message]) -> None:
        """The files are gone, on disk as well: their messages may be delivered."""
        if not queued:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._folder.sync, self._folder.taken)
        finally:
            for message in queued:
                if not message.flags & MessageFlag.MESSAGE_UNUSUAL:  # then it is for a person to release
                    self._dispatcher.release(message)

    async def _take(self, number: int, name: str, queued: list[Message]) -> None:
        try:
            dropped = await asyncio.get_running_loop().run_in_executor(None, self._folder.read, number)
        except BadFile as failure:
            self._refuse(number, name, str(failure))
            return
        message, reply = await self._offer(number, dropped)
        if message is not None:
            queued.append(message)
            self._folder.remove(number)
            self._counters.add(Slot.INGRESS_DROP_TAKEN, 1)
        elif reply.startswith("5"):
            self._refuse(number, name, reply)
        else:
            log.warning("drop folder: %s waits: %s", name, reply)
            self._give_back(number, name)

    async def _offer(self, number: int, dropped: Dropped) -> tuple[Message | None, str]:
        """Speak with a session for the file; the message that came of it, or None and the reply that refuses it."""
        kept: list[tuple[Message, int]] = []
        line = _Line()
        session = self._reception.session(self._profile, "")
        introduce(session, dropped.uid, ", from the drop folder")
        session.connection_made(line)  # type: ignore[arg-type]  # as much of a transport as a session needs
        try:
            reply = await line.reply()
            for command in dropped.commands[:-1]:
                if not reply.startswith("2"):
                    return None, reply
                session.feed(command + b"\r\n")
                reply = await line.reply()
            if not reply.startswith("2"):
                return None, reply
            self._intake.expect(number, lambda message, error: kept.append((message, error)))
            session.feed(dropped.commands[-1] + b"\r\n" + dropped.mail_data)
            reply = await line.reply()
        finally:
            self._intake.forget()
            session.connection_lost(None)
        message = next((message for message, error in kept if not error), None)
        return message, reply

    def _give_back(self, number: int, name: str) -> None:
        self.returned = True
        self._counters.add(Slot.INGRESS_DROP_RETURNED, 1)
        self._folder.give_back(number, name)

    def _refuse(self, number: int, name: str, why: str) -> None:
        uid = self._folder.owner(number)
        login = "" if uid is None else user_name(uid)
        try:
            kept = str(self._folder.refuse(number, name))
        except FileNotFoundError:
            kept = ""  # its owner took it back
        self._counters.add(Slot.INGRESS_DROP_REFUSED, 1)
        self._events.event("drop_refused", {"file": name, "login": login, "why": why, "kept": kept})
        log.error("drop folder: %s of user %s is refused (%s) and kept as %s", name, login, why, kept)
