"""Hand-offs without a session: into Maildirs, to programs, to nowhere.

Input: a route whose next hop is `maildir:`, `pipe:`, `discard:` or `bounce:`. Output: its ready queue, whose deliveries
are settled here. Where the next hop has the recipient in it (`per_recipient`), the Router makes a delivery of each
recipient's own, so that each has a file, or a run of the program, and a result of its own.

Fails: what blames this machine (a folder that cannot be written, a program that cannot be run) defers; what blames the
recipient (a name that can be no folder's, the program's own word) fails it. What is cut off by the end of the worker
is in doubt, as a session's last reply would be.

Bounds: as many at a time as the route's `connections`, a worker's share of them; MOST_WRITING where it says nothing for
a Maildir."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from angarium._core.client_session import Phase
from angarium._core.dispatch import ReadyQueue
from angarium.config.next_hop import FOLDER_NAMES
from angarium.delivery.maildir import deliver, for_mailbox
from angarium.delivery.pipe import StartFailure, result_of, run
from angarium.delivery.template import Inexpressible, Values, folder_of, words_of
from angarium.mail.status import EnhancedStatus

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from angarium._core.dispatch import Delivery, Dispatcher
    from angarium.config.model import Pipe, Route
    from angarium.config.next_hop import HopReply
    from angarium.config.template import Template

__all__ = ["HandOffs", "per_recipient"]

MOST_WRITING = 20  # messages that one worker writes into one Maildir at a time


def per_recipient(route: Route) -> bool:
    """Whether each recipient is handed over alone, because the next hop names it."""
    hop = route.hops[0].to
    parts = hop.folder if hop.kind == "maildir" else hop.words if hop.kind == "pipe" else ()
    return any(name in FOLDER_NAMES for part in parts for name in part.names)


class HandOffs:
    """Those of one worker."""

    def __init__(self, dispatcher: Dispatcher, *, hostname: str) -> None:
        self._dispatcher = dispatcher
        self._hostname = hostname
        self._tasks: set[asyncio.Task[None]] = set()

    def queue_of(self, route: Route, limit: int) -> ReadyQueue:
        """The ready queue of a route; limit: how many at a time, of this worker."""
        hop = route.hops[0].to
        text = str(hop).encode("utf-8")
        match hop.kind:
            case "maildir":
                folder = Path("/", *("".join(part.literals) for part in hop.folder))
                write = partial(self._into_maildir, folder, hop.folder if per_recipient(route) else ())
                most = limit if route.connections is not None else MOST_WRITING
                return ReadyQueue(self._dispatcher, text, text, hand_over=partial(self._begin, write), limit=most)
            case "pipe":
                execute = partial(self._to_program, hop.words, route.pipe)
                return ReadyQueue(self._dispatcher, text, text, hand_over=partial(self._begin, execute), limit=limit)
            case "bounce":
                return ReadyQueue(self._dispatcher, text, b"bounce", hand_over=partial(self._refuse, hop.reply))
        return ReadyQueue(self._dispatcher, text, b"discard", hand_over=self._discard)

    @property
    def under_way(self) -> int:
        """Hand-offs that have begun and are not settled."""
        return len(self._tasks)

    async def close(self) -> None:
        """Break off what is under way; it stays queued, in doubt."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -------------------------------------------------------------- what takes time

    def _begin(self, perform: partial[Coroutine[None, None, None]], delivery: Delivery) -> None:
        delivery.queue.open += 1
        task = asyncio.get_running_loop().create_task(self._perform(perform, delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, perform: partial[Coroutine[None, None, None]], delivery: Delivery) -> None:
        queue = delivery.queue
        try:
            await perform(delivery)
        except Inexpressible as failure:
            self._settle(delivery, 553, failure.status, failure.text.encode("utf-8", "replace"))
        finally:
            queue.open -= 1
        queue.wake()

    async def _into_maildir(self, folder: Path, parts: tuple[Template, ...], delivery: Delivery) -> None:
        buffer = delivery.mail_buffer()
        recipients = [buffer.recipient(index)[0] for index in delivery.indices()]
        if parts:
            folder = Path(folder_of(parts, self._values(delivery, recipients[0])).decode("utf-8"))
        loop = asyncio.get_running_loop()
        self._dispatcher.mark_in_flight(delivery.message)
        try:
            path = await loop.run_in_executor(
                None, deliver, folder, self._hostname, buffer.reverse_path(), recipients, buffer.mail_data()
            )
        except OSError as failure:
            text = f"cannot write into {folder}: {failure}".encode("utf-8", "replace")
            self._settle(delivery, 451, EnhancedStatus(4, 3, 0), text)
            return
        self._delivered(delivery, f"delivered to {path.name}".encode())

    async def _to_program(self, words: tuple[Template, ...], terms: Pipe, delivery: Delivery) -> None:
        buffer = delivery.mail_buffer()
        recipients = [buffer.recipient(index)[0] for index in delivery.indices()]
        command = words_of(words, self._values(delivery, recipients[0]))
        self._dispatcher.mark_in_flight(delivery.message)
        content = for_mailbox(buffer.reverse_path(), recipients, buffer.mail_data())
        try:
            ending = await run(command, content, terms)
        except StartFailure as failure:
            self._settle(delivery, 451, EnhancedStatus(4, 3, 5), str(failure).encode("utf-8", "replace"))
            return
        code, status, text = result_of(ending)
        if status.class_ == 2:  # RFC 3463 §3: success
            self._delivered(delivery, text)
        else:
            self._settle(delivery, code, status, text)

    def _values(self, delivery: Delivery, recipient: bytes) -> Values:
        envelope = delivery.mail_buffer().envelope()
        return Values(
            recipient,
            hostname=self._hostname,
            reverse_path=envelope["reverse_path"],
            queue_id=delivery.message.queue_id,
            tenant=envelope["tenant"],
        )

    # -------------------------------------------------------------- what does not

    def _discard(self, delivery: Delivery) -> None:
        self._delivered(delivery, b"discarded by configuration")

    def _refuse(self, reply: HopReply, delivery: Delivery) -> None:
        code, enhanced, text = reply
        self._settle(delivery, code, enhanced, text.encode("ascii"))

    # -------------------------------------------------------------- results

    def _delivered(self, delivery: Delivery, text: bytes) -> None:
        """Handed over without SMTP; a sender who wants to hear of it is told (RFC 3461 §5.2.3)."""
        if delivery.wants_success:
            delivery.results = [(index, 250, (2, 0, 0), text, Phase.PHASE_FINAL) for index in delivery.indices()]
            self._dispatcher.settle(delivery)
        else:
            self._dispatcher.delivered_by_hand(delivery, 250, text)

    def _settle(self, delivery: Delivery, code: int, enhanced: tuple[int, int, int], text: bytes) -> None:
        delivery.results = [(index, code, enhanced, text, Phase.PHASE_MAIL) for index in delivery.indices()]
        self._dispatcher.settle(delivery)
