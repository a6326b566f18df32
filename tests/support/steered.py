"""A worker's part of the queue under an operator's hand, with a dispatcher that only notes what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from angarium._core.record import Message, MessageState, make_accepted, new_message
from angarium.app.inspection import Inspector
from angarium.app.operations import Operations
from angarium.app.steering import Steering
from tests.support.journal import Shard

if TYPE_CHECKING:
    from pathlib import Path


class NotingDispatcher:
    """What operators use of Dispatcher."""

    def __init__(self, shard: Shard) -> None:
        self.table = shard.table
        self.journals = {0: shard.journal}
        self.schedule = shard.table.schedule
        self.by_domain: dict[bytes, Any] = {}
        self.told: list[tuple[Any, ...]] = []
        self.failure: OSError | None = None
        self.ready_queue: Any = None

    def known(self, domain: bytes, outlet: int = 0) -> Any:
        return self.by_domain.get(domain)

    def waited(self, message: Message) -> dict[str, float]:
        return {}

    def waiting_in(self, message: Message) -> Any:
        return self.ready_queue

    def journal(self, message: Message) -> Any:
        if self.failure is not None:
            raise self.failure
        return self.journals[0]

    def hold(self, message: Message) -> bool:
        self.told.append(("hold", message.id))
        message.state = MessageState.MESSAGE_HELD
        return True

    def release(self, message: Message) -> None:
        self.told.append(("release", message.id))
        message.state = MessageState.MESSAGE_SCHEDULED

    def retry_now(self, message: Message) -> bool:
        self.told.append(("retry", message.id))
        return True

    def drop(self, message: Message) -> None:
        self.told.append(("drop", message.id))
        message.state = MessageState.MESSAGE_GONE
        self.table.discard(message)

    def suspend(self, kind: str, name: bytes, until: float, reason: str) -> None:
        self.told.append(("suspend", kind, name, until, reason))

    def resume(self, kind: str, name: bytes) -> None:
        self.told.append(("resume", kind, name))


class NotingEvents:
    """The event log as a list."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def event(self, event: str, fields: dict[str, Any]) -> None:
        self.lines.append((event, fields))

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.lines if name == event]


class NotingRecorder:
    """What operators use of Recorder."""

    def __init__(self, dispatcher: NotingDispatcher) -> None:
        self._dispatcher = dispatcher
        self.given_up: list[tuple[int, list[int], str, bytes]] = []

    def give_up(self, message: Message, indices: list[int], status: Any, text: bytes) -> None:
        assert message.buffer is not None
        self.given_up.append((message.id, indices, str(status), text))
        for index in indices:
            message.set_recipient_state(index, 3)
        if not message.unfinished():
            self._dispatcher.drop(message)


class SteeredQueue:
    """Messages on disk, and what an operator does to them."""

    def __init__(self, folder: Path) -> None:
        self.shard = Shard(folder)
        self.dispatcher: Any = NotingDispatcher(self.shard)
        self.events: Any = NotingEvents()
        self.recorder: Any = NotingRecorder(self.dispatcher)
        self.ready_queues: list[Any] = []
        self.steering = Steering(self.dispatcher, self.recorder, self.events, lambda: self.ready_queues)
        self.inspector = Inspector(self.dispatcher, self.steering)
        self.suspects: set[str] = set()
        self.operations = Operations(self.inspector, self.steering, self.events, self._trust)

    def _trust(self, log_in: str) -> bool:
        was = log_in in self.suspects
        self.suspects.discard(log_in)
        return was

    def add(self, *recipients: str, in_memory: bool = False, **envelope: Any) -> Message:
        """A message of the queue; its mail data is on disk only, unless in_memory."""
        filled = {"reverse_path": b"me@origin.test", "received_us": 5_000_000, **envelope}
        filled["recipients"] = [(path.encode(), 0, b"") for path in recipients or ("you@dest.test",)]
        content = b"Subject: x\r\nTo: y\r\n\r\nbody\r\n"
        message = new_message(make_accepted(filled, content, self.shard.journal.new_id()))
        self.shard.journal.append(message, self.shard.receiver)
        self.shard.settle()
        self.shard.table.insert(message)
        self.dispatcher.schedule.assign(message)
        self.dispatcher.schedule.wait(message, 1.0, True)
        message.state = MessageState.MESSAGE_SCHEDULED
        if not in_memory:
            message.buffer = None
        return message
