"""Find the way of a message: recipients to routes, routes to ready queues.

Input: a message with its mail data in memory. Output: one delivery per next hop, in its ready queue; where a domain's
answer depends on nothing but the domain, the dispatcher remembers it, and the next message to that domain never comes
here. Routes that say the same of the way (`Route.way`) share a ready queue; by MX there is one for each such way and
site. Mail under different TLS policies has ready queues of its own; what a message says of that itself (OWN_POLICY) is
never remembered of its domain.

Fails: a domain that has no mail host, or whose look-up failed, settles its recipients with the resolver's reply, and so
does mail that is larger than its route takes (5.3.4), without a connection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from angarium._core.client_session import Phase
from angarium._core.counters import Slot
from angarium._core.dispatch import ReadyQueue
from angarium.config.next_hop import SESSION_KINDS
from angarium.delivery.handoff import HandOffs, per_recipient
from angarium.delivery.login import Login
from angarium.delivery.lookup_protocol import MAIL_HOSTS
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.provider import Providers
from angarium.delivery.route import MailCircumstances
from angarium.delivery.target import Host, HostShare, SessionTerms, Target
from angarium.delivery.tls_policy import OWN_POLICY, TlsPolicies, for_domain, for_message
from angarium.mail.address import ascii_domain, split_mailbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.dispatch import Delivery, Dispatcher
    from angarium._core.record import Message
    from angarium.clock import Clock
    from angarium.config.model import Delivery as DeliveryConfig
    from angarium.config.model import OAuth2, Route
    from angarium.config.next_hop import NextHop
    from angarium.delivery.connection import Connector
    from angarium.delivery.login import Tokens
    from angarium.delivery.lookup_client import LookupClient
    from angarium.delivery.mail_host import MailHosts
    from angarium.delivery.route import RouteMatch, RouteTable
    from angarium.delivery.target import TlsPolicy

MX = b"mx"
SMTP_PORT = 25
RESOLVE_FIRST_S = 2.0  # a domain whose names cannot be had is asked for again after that, doubling up to
RESOLVE_LONGEST_S = 300.0
TRANSIENT = 4  # first digit of a reply that may change
MOST_LOOKING_UP = 2000  # messages that wait for names, of the whole node; mail to new names beyond that comes again
LEAST_LOOKING_UP = 100  # of one worker
CROWDED_S = 0.5
MOST_SITES = 100_000  # ready queues by MX that are kept; idle ones go first


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """What some routes say alike of the way that mail takes."""

    route: Route  # without what it says of who takes it
    alone: bool  # each recipient is handed over alone


@dataclass(frozen=True, slots=True)
class Destination:
    """Where mail would go: its names in events, hosts and policy of sessions, and the ready queue if there is one."""

    next_hop: str
    site: str
    target: Target | None  # None: a hand-off, or no host is known
    queue: ReadyQueue | None
    limit: int  # connections of this worker


class Router:
    """The routes of one worker."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        connector: Connector,
        lookup: LookupClient,
        routes: RouteTable,
        config: DeliveryConfig,
        clock: Clock,
        *,
        hostname: str,
        workers: int,
        tls: TlsPolicies,
        tokens: Callable[[OAuth2], Tokens] | None = None,
        providers: Providers | None = None,
    ) -> None:
        """`tokens`: where a log-in's access tokens come from, for routes that want some."""
        self.providers = Providers((), dispatcher.counters) if providers is None else providers
        self._tls = tls
        self._dispatcher = dispatcher
        self._connector = connector
        self._lookup = lookup
        self.routes = routes
        self._config = config
        self._clock = clock
        self._workers = workers
        self._tokens = tokens
        self._hostname = hostname
        self.hand_offs = HandOffs(dispatcher, hostname=hostname)
        ways: dict[Route, Way] = {}
        self._ways = [  # by the position of the route
            ways.setdefault(route.way, Way(route.way, per_recipient(route))) for route in routes.routes
        ]
        self._fixed: dict[tuple[Way, TlsPolicy], ReadyQueue] = {}
        self._sites: dict[tuple[Way, TlsPolicy, str], ReadyQueue] = {}
        self._closed = False
        self._retired = False
        self._looking_up = 0
        self._most_looking_up = max(LEAST_LOOKING_UP, MOST_LOOKING_UP // workers)
        self._crowded = ReadyQueue(dispatcher, MX, b"")  # what is sent there comes back after a while

    def retire(self) -> None:
        """The routes have changed, and another Router finds the way of mail from now on.

        What waits here goes back untouched; what is under way ends, and `close` breaks it off.
        """
        self._retired = True
        for queue in self.queues:
            queue.retire()

    @property
    def looking_up(self) -> int:
        """Deliveries that wait for names."""
        return self._looking_up

    @property
    def under_way(self) -> int:
        """Look-ups and hand-offs that have begun and are not over."""
        return self._looking_up + self.hand_offs.under_way

    @property
    def queues(self) -> list[ReadyQueue]:
        """Every ready queue there is."""
        return [*self._fixed.values(), *self._sites.values()]

    def place(self, message: Message) -> None:
        """Send message on its way."""
        ready: dict[ReadyQueue, tuple[list[int], int]] = {}
        alone: list[tuple[ReadyQueue, int, int]] = []
        by_mx: dict[tuple[Way, TlsPolicy, str], tuple[list[int], bool]] = {}
        own = bool(message.flags & OWN_POLICY)
        buffer = message.loaded
        octets = len(memoryview(buffer))
        mail = MailCircumstances(buffer) if self.routes.conditional else None
        for index in message.unfinished():
            path = buffer.recipient(index)[0]
            try:
                local, domain = split_mailbox(path)
                name = ascii_domain(domain).decode("ascii")
            except ValueError as failure:
                self._refuse(message, [index], MX, "none", 553, (5, 1, 3), str(failure))
                continue
            match = self.routes.lookup(local, domain, mail)
            route, way = match.route, self._ways[match.position]
            if route.message_size_octets is not None and octets > route.message_size_octets:
                text = f"The message of {octets} octets exceeds the route's limit of {route.message_size_octets}"
                hop, site = (MX, name) if route.kind == "mx" else _names_of(route)
                self._refuse(message, [index], hop, site, 552, (5, 3, 4), text)
                continue
            tls = self._policy_of(message, match, name)
            if route.kind == "mx":
                indices, _ = by_mx.setdefault((way, tls, name), ([], match.by_domain and not own))
                indices.append(index)
            else:
                queue = self._queue_of(way, tls)
                provider = self.providers.of_domain(name.encode("ascii"))
                if match.by_domain and not own:
                    for form in {domain.lower(), name.encode("ascii")}:  # as clients write it, as it is scheduled
                        self._dispatcher.remember(form, queue, provider)
                if way.alone:
                    alone.append((queue, index, provider))
                else:
                    ready.setdefault(queue, ([], provider))[0].append(index)
        for queue, (indices, provider) in ready.items():
            self._dispatcher.send(message, queue, indices, provider)
        for queue, index, provider in alone:
            self._dispatcher.send(message, queue, [index], provider)
        for (way, tls, name), (indices, by_domain) in by_mx.items():
            known = self._site_of(way, tls, name)
            if known is not None:
                self._dispatcher.send(message, known, indices, self.providers.of_domain(name.encode("ascii")))
            else:
                self._hold_for_names(message, way, tls, name, indices, by_domain)

    def apply_suspensions(self) -> None:
        """What is suspended by site or source rests, and what is not any more goes on."""
        for queue in self.queues:
            queue.apply_suspensions()

    def _policy_of(self, message: Message, match: RouteMatch, domain: str) -> TlsPolicy:
        policy = self._tls.of(match, domain.encode("ascii"))
        if message.flags & OWN_POLICY and not match.route.kind.startswith("lmtp"):  # there it has arrived
            return for_message(policy, message.flags, message.loaded.reverse_path())
        return policy

    # -------------------------------------------------------------- for who asks where mail would go

    def would_take(self, match: RouteMatch, domain: str, hosts: MailHosts | None) -> Destination:
        """Where mail to a domain that takes this route would go now; `hosts`: its own, when that is by MX.

        Nothing is made.
        """
        way = self._ways[match.position]
        tls = self._tls.of(match, domain.encode("ascii"))
        if match.route.kind == "mx":
            if hosts is None:
                return Destination("mx", "", None, None, self._limit_of(way.route))
            tls = for_domain(tls, domain, hosts.mta_sts)
            target = self._site_target(way.route, tls, hosts)
            queue = self._sites.get((way, tls, hosts.site))
            return Destination("mx", hosts.site, target, queue, self._limit_of(way.route))
        hop, site = _names_of(match.route)
        fixed = self._fixed_target(way.route, tls) if match.route.kind in SESSION_KINDS else None
        return Destination(hop.decode("utf-8"), site, fixed, self._fixed.get((way, tls)), self._limit_of(way.route))

    # -------------------------------------------------------------- next hops that the configuration names

    def _queue_of(self, way: Way, tls: TlsPolicy) -> ReadyQueue:
        queue = self._fixed.get((way, tls))
        if queue is None:
            queue = self._fixed[way, tls] = self._make_queue(way.route, tls)
        return queue

    def _make_queue(self, route: Route, tls: TlsPolicy) -> ReadyQueue:
        if route.kind in {"discard", "maildir", "pipe", "bounce"}:
            queue = self.hand_offs.queue_of(route, self._limit_of(route))
        else:
            hop, site = _names_of(route)
            queue = ReadyQueue(
                self._dispatcher,
                hop,
                site.encode("ascii", "replace"),
                self._fixed_target(route, tls),
                limit=self._limit_of(route),
                connect=self._connector.connect,
            )
        queue.largest_octets = route.message_size_octets or 0
        queue.provider = self.providers.of_hosts(hop.to.host for hop in route.hops if hop.to.host)
        return queue

    def _fixed_target(self, route: Route, tls: TlsPolicy) -> Target:
        """Where the connections of a route to hosts that it names go, and how."""
        lmtp = route.kind.startswith("lmtp")
        if tls.level in {"none", "opportunistic"} and any(hop.to.kind == "smtps" for hop in route.hops):
            tls = replace(tls, level="require", source="smtps://")
        return Target(
            tuple(self._host_of(hop.to) for hop in route.hops),
            tls=tls,
            protocol="lmtp" if lmtp else "smtp",
            shares=tuple(HostShare(hop.priority, hop.weight) for hop in route.hops),
            terms=self._terms_of(route),
            login=self._login_of(route),
            recipients=1 if lmtp and route.delivered_to else 0,
        )

    def _host_of(self, hop: NextHop) -> Host:
        if hop.path:  # a Unix socket: who is behind it is on this machine
            return Host(self._hostname, hop.path, 0)
        return Host(hop.host, hop.host, hop.port, implicit_tls=hop.kind == "smtps")

    def _login_of(self, route: Route) -> Login | None:
        if route.auth is None:
            return None
        wanted = route.auth.oauth2
        return Login(route.auth, self._tokens(wanted) if wanted is not None and self._tokens is not None else None)

    def _limit_of(self, route: Route) -> int:
        """This worker's part of a limit that holds for the node; at least one, so that all its mail can go."""
        return max(1, (route.connections or self._config.connections_per_host) // self._workers)

    def _terms_of(self, route: Route) -> SessionTerms:
        """What the route says of its sessions, and [delivery] where it says nothing."""
        return SessionTerms(
            timeouts=route.timeouts or self._config.timeouts,
            idle_s=self._config.idle_s if route.idle_s is None else route.idle_s,
            messages_per_connection=(
                self._config.messages_per_connection
                if route.messages_per_connection is None
                else route.messages_per_connection
            ),
        )

    # -------------------------------------------------------------- next hops by MX

    def _site_of(self, way: Way, tls: TlsPolicy, name: str) -> ReadyQueue | None:
        """The ready queue of a domain whose mail hosts are known and fresh, where its mail goes one way alone."""
        known = self._dispatcher.by_domain.get(name.encode("ascii"))
        if known is None or known.expires <= self._clock.monotonic():
            return None
        return known if self._sites.get((way, tls, known.site.decode("ascii"))) is known else None

    def _hold_for_names(
        self, message: Message, way: Way, tls: TlsPolicy, name: str, indices: list[int], by_domain: bool
    ) -> None:
        if self._looking_up >= self._most_looking_up and not self._lookup.knows(name):
            # a tail of new names waits on disk for its turn, which is no attempt; a known one is never behind it
            self._crowded.blocked_until = self._clock.monotonic() + CROWDED_S
            self._dispatcher.send(message, self._crowded, indices)
            return
        # a delivery of its own keeps the message under way until the names are known
        waiting = ReadyQueue(
            self._dispatcher, MX, name.encode("ascii"), hand_over=partial(self._look_up, way, tls, name, by_domain)
        )
        self._dispatcher.send(message, waiting, indices, self.providers.of_domain(name.encode("ascii")))

    def _look_up(self, way: Way, tls: TlsPolicy, name: str, by_domain: bool, delivery: Delivery) -> None:
        self._looking_up += 1
        began = None if self._lookup.knows(name) else self._clock.monotonic()  # what is known takes no time
        self._lookup.ask_then(MAIL_HOSTS, name, partial(self._go_on, way, tls, name, by_domain, delivery, began))

    def _go_on(
        self,
        way: Way,
        tls: TlsPolicy,
        name: str,
        by_domain: bool,
        delivery: Delivery,
        began: float | None,
        hosts: MailHosts | ResolutionFailure,
    ) -> None:
        """The hosts of a domain are known, or why they are not. began: when they were asked for, if they were."""
        self._looking_up -= 1
        if began is not None:
            took_us = int((self._clock.monotonic() - began) * 1e6)
            self._dispatcher.counters.observe(Slot.DELIVERY_ATTEMPT_DNS, max(0, took_us))
        if self._closed:
            return
        if self._retired:
            self._dispatcher.give_back(delivery)
            return
        if isinstance(hosts, ResolutionFailure):
            text = hosts.text.encode("utf-8", "replace")
            if hosts.code // 100 == TRANSIENT and by_domain:
                # one look-up per interval, not one per message
                failures = self._dispatcher.failures_of(delivery.message)
                self._dispatcher.leave_alone(
                    delivery.message, min(RESOLVE_FIRST_S * 2.0**failures, RESOLVE_LONGEST_S), text
                )
            self._settle_all(delivery, hosts.code, hosts.enhanced, text)
            return
        hosts = self._lookup.in_any_order(hosts)
        tls = for_domain(tls, name, hosts.mta_sts)
        if tls.requiretls and not (hosts.secure or tls.mx or tls.name or tls.level == "fingerprint"):
            # RFC 8689 §4.2.1: whoever can forge the answer could name a host with a certificate of his own, where the
            # configuration does not say who the host is
            why = f"REQUIRETLS: neither DNSSEC nor MTA-STS vouches for the mail exchangers of {name}"
            self._settle_all(delivery, 550, (5, 7, 10), why.encode("utf-8", "replace"))
            return
        queue = self._site_queue(way, tls, hosts)
        if by_domain:
            self._dispatcher.remember(name.encode("ascii"), queue, self.providers.of_domain(name.encode("ascii")))
        self._dispatcher.redirect(delivery, queue)

    def _site_target(self, route: Route, tls: TlsPolicy, hosts: MailHosts) -> Target:
        return Target(_at_addresses(hosts), tls=tls, by_mx=True, terms=self._terms_of(route), found=hosts.hosts)

    def _site_queue(self, way: Way, tls: TlsPolicy, hosts: MailHosts) -> ReadyQueue:
        queue = self._sites.get((way, tls, hosts.site))
        if queue is None:
            if len(self._sites) >= MOST_SITES:
                self._forget_idle_sites()
            queue = ReadyQueue(
                self._dispatcher,
                MX,
                hosts.site.encode("ascii", "replace"),
                self._site_target(way.route, tls, hosts),
                limit=self._limit_of(way.route),
                connect=self._connector.connect,
            )
            queue.largest_octets = way.route.message_size_octets or 0
            queue.provider = self.providers.of_hosts(host.name for host in hosts.hosts)
            self._sites[way, tls, hosts.site] = queue
        elif queue.target.found != hosts.hosts:  # thousands of domains may say the same
            queue.target.hosts, queue.target.found = _at_addresses(hosts), hosts.hosts
        queue.expires = hosts.expires
        return queue

    def forget_names(self) -> None:
        """The mail hosts of every domain are asked for again; connections stay."""
        for queue in self._sites.values():
            queue.expires = 0.0

    def _forget_idle_sites(self) -> None:
        for key, queue in list(self._sites.items()):
            if not (queue.backlog or queue.attached or queue.loading or queue.open or queue.connecting):
                del self._sites[key]
                queue.expires = 0.0

    # -------------------------------------------------------------- ends without a connection

    def _refuse(
        self,
        message: Message,
        indices: list[int],
        hop: bytes,
        site: str,
        code: int,
        enhanced: tuple[int, int, int],
        text: str,
    ) -> None:
        def fail(delivery: Delivery) -> None:
            self._settle_all(delivery, code, enhanced, text.encode("utf-8", "replace"))

        self._dispatcher.send(
            message, ReadyQueue(self._dispatcher, hop, site.encode("ascii", "replace"), hand_over=fail), indices
        )

    def _settle_all(self, delivery: Delivery, code: int, enhanced: tuple[int, int, int], text: bytes) -> None:
        delivery.results = [(index, code, enhanced, text, Phase.PHASE_MAIL) for index in delivery.indices()]
        self._dispatcher.settle(delivery)

    async def close(self) -> None:
        """Give up look-ups and hand-offs under way; what waits for them stays queued."""
        self._closed = True
        await self.hand_offs.close()


def _at_addresses(hosts: MailHosts) -> tuple[Host, ...]:
    return tuple(
        Host(host.name, address, SMTP_PORT, host.tlsa, host.tlsa_base)
        for host in hosts.hosts
        for address in host.addresses
    )


def _names_of(route: Route) -> tuple[bytes, str]:
    """What the next hops of a route, and their site, are called in events: the hosts as those of an MX would be."""
    hop = " ".join(str(each.to) for each in route.hops)
    groups: dict[int, list[str]] = {}
    for each in sorted(route.hops, key=lambda each: each.priority):
        groups.setdefault(each.priority, []).append(each.to.host or str(each.to))
    if len(route.hops) == 1:
        return hop.encode("utf-8"), route.hops[0].to.host or hop
    return hop.encode("utf-8"), ">".join("|".join(group) for group in groups.values())
