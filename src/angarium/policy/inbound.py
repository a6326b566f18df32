"""Mail to domains of ours: from the configuration of a listener to the policy that its compiled sessions read.

Input: the configuration, and for call-ahead the lookup process. Output: a RecipientPolicy for each listener with
`domains`, asked for once, at start. `refresh` looks after files of recipients; call it about once a second.

Fails: never; a file that cannot be read is recipient_list.py's business.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from angarium._core.recipient_policy import Judgement, RecipientPolicy
from angarium.mail.address import split_mailbox
from angarium.mail.pattern import folded_domain
from angarium.policy.recipient_list import WatchedList
from angarium.policy.recipient_query import RecipientQuery

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.counters import Counters
    from angarium._core.decision import Decision
    from angarium._core.event_log import EventLog
    from angarium.clock import Clock
    from angarium.config.model import Listener
    from angarium.delivery.lookup_client import LookupClient

    Verify = Callable[[bytes], bytes | Callable[[Decision], None]]

__all__ = ["InboundPolicies"]

# as cext/server_session.pyx says it
TAKEN = "250 2.1.5 Recipient OK"
FOREIGN = "550 5.7.1 Relaying denied"
ROUTED = "550 5.7.1 Relaying denied: the local part names another destination"


class InboundPolicies:
    """The policies of one worker's listeners, and what they ask."""

    def __init__(self, lookup: LookupClient, counters: Counters, events: EventLog, clock: Clock) -> None:
        self._lookup = lookup
        self._counters = counters
        self._events = events
        self._clock = clock
        self._lists: dict[tuple[str, str | None], WatchedList] = {}
        self._known: dict[tuple[str, str | None], WatchedList] = {}  # of the configuration before
        self._queries: list[RecipientQuery] = []
        self._policies: dict[str, RecipientPolicy] = {}

    def follow(self) -> InboundPolicies:
        """Those of another configuration, of no listener yet; files that both name are known already."""
        following = InboundPolicies(self._lookup, self._counters, self._events, self._clock)
        following._known = self._lists  # its own kind
        return following

    def policy_of(self, listener: Listener) -> RecipientPolicy | None:
        """What a listener takes from those who may not relay; None: nothing."""
        if listener.role != "inbound":
            return None
        policy = self._policies[listener.name] = RecipientPolicy(
            [str(pattern).encode("ascii") for pattern in listener.domains],
            verify=self._verify(listener),
            fold=folded_domain,
        )
        return policy

    async def explain(self, mailbox: bytes) -> list[tuple[str, str]]:
        """By listener, what a client that may not relay is answered to RCPT now; recipients are asked about as for
        mail."""
        _, domain = split_mailbox(mailbox)
        answers = []
        for name, policy in self._policies.items():
            judgement = policy.judged(mailbox, len(domain))
            if judgement == Judgement.RECIPIENT_HOSTED:
                refusal = await _verified(policy, mailbox)
                answers.append((name, refusal.decode("ascii").rstrip() or TAKEN))
            else:
                answers.append((name, ROUTED if judgement == Judgement.RECIPIENT_ROUTED else FOREIGN))
        return answers

    def refresh(self) -> None:
        """Read again what has changed."""
        for watched in self._lists.values():
            watched.refresh()

    async def close(self) -> None:
        """Answer those who wait: nobody can be asked any more."""
        for query in self._queries:
            await query.close()

    def _verify(self, listener: Listener) -> Verify | None:
        if listener.verify_recipients == "list" and listener.recipient_file is not None:
            key = (listener.recipient_file, listener.recipient_delimiter)
            if key not in self._lists:
                known = self._known.get(key)
                self._lists[key] = WatchedList(*key, self._counters, self._events) if known is None else known
            return self._lists[key].verify
        if listener.verify_recipients == "call-ahead":
            query = RecipientQuery(
                listener.name, listener.verification, self._lookup, self._counters, self._clock.monotonic
            )
            self._queries.append(query)
            return query.verify
        return None


async def _verified(policy: RecipientPolicy, mailbox: bytes) -> bytes:
    """Empty, or the reply that refuses a mailbox of ours."""
    if policy.verify is None:
        return b""
    answer = policy.verify(mailbox)
    if isinstance(answer, bytes):
        return answer
    told: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    answer(cast("Decision", told.set_result))
    return await told
