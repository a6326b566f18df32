"""The time of what waits: messages that are over, and senders who are to be told that their mail is late.

Job: look at a part of the queue on every tick, so that all of it is looked at once in SWEEP_S, and end or warn of what
is found. Input: the worker's queue and the retry schedule of a message. Fails: a message whose mail data cannot be read
is the loader's matter. Bounds: MOST_TOLD notifications in one tick; the next round finds the others again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium.queue.backoff import expires_at, warns_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.dispatch import Dispatcher
    from angarium._core.record import Message
    from angarium.clock import Clock
    from angarium.config.model import Retry
    from angarium.outcome.recorder import Recorder
    from angarium.queue.loader import Loader

__all__ = ["Lateness"]

SWEEP_S = 60.0  # in so long every queued message is looked at once
LEAST_SWEPT = 256
MOST_TOLD = 50


class Lateness:
    """Of the queue of one worker."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        recorder: Recorder,
        loader: Loader,
        clock: Clock,
        retry_of: Callable[[Message], Retry],
        *,
        tick_s: float,
    ) -> None:
        """tick_s: how often `look` is called."""
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._loader = loader
        self._clock = clock
        self._retry_of = retry_of
        self._share = tick_s / SWEEP_S

    def look(self) -> None:
        """Look at the next part of the queue."""
        over, late = self._dispatcher.sweep(max(LEAST_SWEPT, int(self._dispatcher.table.capacity * self._share)))
        for message, then in [
            *((message, self._expire) for message in over),
            *((message, self._warn) for message in late),
        ][:MOST_TOLD]:
            if self._dispatcher.withdraw(message):
                self.with_mail_data(message, then)

    def with_mail_data(self, message: Message, then: Callable[[Message], None]) -> None:
        """Call then(message) when its mail data is in memory: now, or when it has been read."""
        if message.buffer is not None:
            then(message)
        else:
            self._loader.load(message, then)

    def _expire(self, message: Message) -> None:
        if message.buffer is None:
            return  # it cannot be read, and that has been dealt with
        end = expires_at(self._retry_of(message), message.received_us * 1e-6)
        if self._clock.now() < end:
            self._dispatcher.wait(message, end)
        else:
            self._recorder.expire(message, self._waits_for(message))

    def _warn(self, message: Message) -> None:
        if message.buffer is None:
            return
        at = message.next_attempt
        late = warns_at(self._retry_of(message), message.received_us * 1e-6)
        if late is not None and self._clock.now() >= late:
            self._recorder.warn(message, self._waits_for(message))
        self._dispatcher.wait(message, at)

    def _waits_for(self, message: Message) -> bytes:
        """Why the next hop of message is left alone, if it is."""
        queue = self._dispatcher.schedule.queue(message)
        return b"" if queue is None or queue.reason is None else queue.reason
