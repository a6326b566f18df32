"""When what waits is tried again: the retry schedules of one configuration, numbered for compiled code.

Input: the configuration and its routes. Output: for a domain the number of its schedule (`policy_of`), for a message
the schedule itself (`of`). Number 0 is the queue's own.

A change of the configuration makes another one; `install` has the dispatcher go by it from then on. Nothing here fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium.delivery.route import MailCircumstances
from angarium.mail.address import split_mailbox

if TYPE_CHECKING:
    from angarium._core.dispatch import Dispatcher
    from angarium._core.record import Message
    from angarium.config.model import Config, Retry
    from angarium.delivery.route import RouteTable

__all__ = ["RetrySchedules"]


class RetrySchedules:
    """Those of one configuration, for the queue of one worker."""

    def __init__(self, config: Config, routes: RouteTable, dispatcher: Dispatcher) -> None:
        self._routes = routes
        self._dispatcher = dispatcher
        self._retries = [config.queue.retry]
        for route in config.route:
            if route.retry is not None and route.retry not in self._retries:
                self._retries.append(route.retry)

    def install(self) -> None:
        """Go by these from now on, also with what waits already."""
        schedule = self._dispatcher.schedule
        schedule.policy_of = self.policy_of
        self._dispatcher.set_retry_schedules(
            [retry.expire_s for retry in self._retries], [retry.warn_after_s for retry in self._retries]
        )
        schedule.renumber_policies()

    def policy_of(self, domain: bytes) -> int:
        """The number of the retry schedule for mail to a domain; the longest, where it depends on the message."""
        if not domain:
            return 0
        matches = [self._routes.lookup(b"", domain), *self._routes.ahead(b"", domain)]
        retries = [match.route.retry or self._retries[0] for match in matches]
        return self._retries.index(max(retries, key=lambda retry: retry.expire_s))

    def of(self, message: Message) -> Retry:
        """The retry schedule of the route that the first of its recipients who are left takes, or of its domain."""
        queue = self._dispatcher.schedule.assign(message)
        left = message.unfinished() if self._routes.conditional and queue.domain else []
        if not left or message.buffer is None:
            return self._retries[queue.policy]
        local, domain = split_mailbox(message.buffer.recipient(left[0])[0])
        if not self._routes.ahead(local, domain):
            return self._retries[queue.policy]
        return self._routes.lookup(local, domain, MailCircumstances(message.buffer)).route.retry or self._retries[0]
