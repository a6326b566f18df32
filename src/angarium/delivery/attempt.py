"""Find the way of a message: recipients to routes, routes to ready queues.

Input: a message with its mail data in memory. Output: one delivery per next hop, in its ready queue; where a domain's
answer depends on nothing but the domain, the dispatcher remembers it, and the next message to that domain never comes
here. Routes that say the same of the way (`Route.way`) share a ready queue; by MX there is one for each such way and
site. Mail under different TLS policies has ready queues of its own, and so has the mail of each source; what a message
says of its TLS itself (OWN_POLICY) is never remembered of its domain.

A source that cannot be used for a next hop is replaced by the next one of its pool that can (`_by_usable_source`); mail
of a pool of which none can waits, with the reasons, until one can, or SOURCE_REST_S to look again.

Fails: a domain that has no mail host, or whose look-up failed, settles its recipients with the resolver's reply, and so
does mail that is larger than its route takes (5.3.4), without a connection."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from angarium._core.client_session import Phase
from angarium._core.counters import Dimension, Slot
from angarium._core.dispatch import ReadyQueue
from angarium.config.model import DEFAULT_SOURCE
from angarium.config.next_hop import SESSION_KINDS
from angarium.delivery.dial import family_of, is_address
from angarium.delivery.handoff import HandOffs, per_recipient
from angarium.delivery.login import Login
from angarium.delivery.lookup_protocol import MAIL_HOSTS
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.provider import Providers
from angarium.delivery.route import MailCircumstances
from angarium.delivery.source import NO_CHOICE, Choice, Sources
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
    from angarium.delivery.source import Source, SourceFailure
    from angarium.delivery.target import TlsPolicy

MX = b"mx"
SMTP_PORT = 25
RESOLVE_FIRST_S = 2.0  # a domain whose names cannot be had is asked for again after that, doubling up to
RESOLVE_LONGEST_S = 300.0
TRANSIENT = 4  # first digit of a reply that may change
MOST_LOOKING_UP = 2000  # messages that wait for names, of the whole node; mail to new names beyond that comes again
LEAST_LOOKING_UP = 100  # of one worker
CROWDED_S = 0.5
SOURCE_REST_S = 60.0  # mail whose sources cannot be used looks again after that
UNFIT_S = 300.0  # a source without an address for the hosts that a name has is tried for them again after that
FAMILIES = (socket.AF_INET6, socket.AF_INET)
MOST_SITES = 100_000  # ready queues by MX that are kept; idle ones go first


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """What some routes say alike of the way that mail takes."""

    route: Route  # without what it says of who takes it
    alone: bool  # each recipient is handed over alone
    leaves: bool  # over a network


@dataclass(frozen=True, slots=True)
class Destination:
    """Where mail would go: its names in events, hosts and policy of sessions, and the ready queue if there is one."""

    next_hop: str
    site: str
    target: Target | None  # None: a hand-off, or no host is known
    queue: ReadyQueue | None
    limit: int  # connections of this worker
    queues: tuple[ReadyQueue, ...] = ()  # of all sources of the pool


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
        sources: Sources | None = None,
    ) -> None:
        """`tokens`: where a log-in's access tokens come from, for routes that want some. `sources`: those of pools."""
        self.providers = Providers((), dispatcher.counters) if providers is None else providers
        self._sources = sources
        self._source_reasons: set[bytes] = set()
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
            ways.setdefault(route.way, Way(route.way, per_recipient(route), _leaves(route))) for route in routes.routes
        ]
        self._fixed: dict[tuple[Way, TlsPolicy, Source | None], ReadyQueue] = {}
        self._sites: dict[tuple[Way, TlsPolicy, str, Source | None], ReadyQueue] = {}
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
        ready: dict[ReadyQueue, tuple[list[int], int, int]] = {}
        alone: list[tuple[ReadyQueue, int, int, int]] = []
        by_mx: dict[tuple[Way, TlsPolicy, str, Choice], tuple[list[int], bool]] = {}
        chosen: dict[tuple[str | None, bool], Choice] = {}
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
            choice = self._choose(message, route, way, chosen)
            if choice.detour is not None and match.by_domain and not own:
                outlet, pool = choice.detour
                for form in {domain.lower(), name.encode("ascii")}:
                    self._dispatcher.remember(form, pool, outlet)
            if route.kind == "mx":
                indices, _ = by_mx.setdefault((way, tls, name, choice), ([], match.by_domain and not own))
                indices.append(index)
            else:
                queue = self._queue_of(way, tls, choice)
                provider = self.providers.of_domain(name.encode("ascii"))
                if match.by_domain and not own:
                    for form in {domain.lower(), name.encode("ascii")}:  # as clients write it, as it is scheduled
                        self._dispatcher.remember(form, queue, choice.number, provider)
                if way.alone:
                    alone.append((queue, index, provider, self._pool_row(choice)))
                else:
                    ready.setdefault(queue, ([], provider, self._pool_row(choice)))[0].append(index)
        for queue, (indices, provider, row) in ready.items():
            self._dispatcher.send(message, queue, indices, provider, row)
        for queue, index, provider, row in alone:
            self._dispatcher.send(message, queue, [index], provider, row)
        for (way, tls, name, choice), (indices, by_domain) in by_mx.items():
            known = self._site_of(way, tls, name, choice)
            if known is not None:
                provider = self.providers.of_domain(name.encode("ascii"))
                self._dispatcher.send(message, known, indices, provider, self._pool_row(choice))
            else:
                self._hold_for_names(message, way, tls, name, choice, indices, by_domain)

    def _choose(
        self, message: Message, route: Route, way: Way, chosen: dict[tuple[str | None, bool], Choice]
    ) -> Choice:
        """By what source a message goes; one for all its recipients whose routes say the same."""
        if self._sources is None or (message.outlet == 0 and route.source_pool is None):
            return NO_CHOICE
        key = (route.source_pool, way.leaves)
        if key not in chosen:
            chosen[key] = self._sources.choose(message, route.source_pool, leaves=way.leaves)
        return chosen[key]

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

    def would_take(
        self, match: RouteMatch, domain: str, hosts: MailHosts | None, choice: Choice = NO_CHOICE
    ) -> Destination:
        """Where mail to a domain that takes this route would go now; `hosts`: its own, when that is by MX.

        `choice`: the sources that it may leave by. Nothing is made.
        """
        way = self._ways[match.position]
        tls = self._tls.of(match, domain.encode("ascii"))
        if match.route.kind == "mx":
            if hosts is None:
                return Destination("mx", "", None, None, self._limit_of(way.route))
            tls = for_domain(tls, domain, hosts.mta_sts)
            target = self._site_target(way.route, tls, hosts, None)
            source = _usable(choice, target)
            target.source = source
            queues = {each: self._sites.get((way, tls, hosts.site, each)) for each in _sources_of(choice)}
            return _destination("mx", hosts.site, target, queues, source, self._limit_of(way.route))
        hop, site = _names_of(match.route)
        fixed = self._fixed_target(way.route, tls, None) if match.route.kind in SESSION_KINDS else None
        source = None
        if fixed is not None and way.leaves:
            fixed.source = source = _usable(choice, fixed)
        queues = {each: self._fixed.get((way, tls, each)) for each in (_sources_of(choice) if way.leaves else [None])}
        return _destination(hop.decode("utf-8"), site, fixed, queues, source, self._limit_of(way.route))

    # -------------------------------------------------------------- sources

    def _by_usable_source(self, choice: Choice, queue_from: Callable[[Source | None], ReadyQueue]) -> ReadyQueue:
        """The ready queue of the first source that will do; that of the assigned one, left alone, when none will."""
        if not choice.candidates:
            return queue_from(None)
        assert self._sources is not None
        why: list[str] = []
        for source in choice.usable():
            queue = queue_from(source)
            reason = self._why_not(queue.target)
            if not reason:
                if why:
                    self._sources.replaced(choice, source, why[0])
                return queue
            why.append(reason)
        _, assigned = choice.candidates[0]
        queue = queue_from(assigned)
        reasons = f"source pool {choice.pool}: {'; '.join(dict.fromkeys(why))}"
        text = reasons.encode("utf-8", "replace")
        if not queue.rests:
            self._source_reasons.add(text)
            self._dispatcher.events.event(
                "source_pool_unusable",
                {
                    "pool": choice.pool,
                    "next_hop": queue.next_hop.decode("utf-8", "replace"),
                    "site": queue.site.decode("utf-8", "replace"),
                    "why": reasons,
                    "retry_s": SOURCE_REST_S,
                },
            )
            queue.block(SOURCE_REST_S, text)
        return queue

    def _why_not(self, target: Target) -> str:
        """Why the source of target cannot be used for its hosts; empty when it can."""
        assert target.source is not None
        if target.unfit_until > self._clock.monotonic():
            return f"source {target.source.name} has no address of a family that the hosts have"
        return self.why_not(target.source, target)

    def why_not(self, source: Source, target: Target | None) -> str:
        """Why a source cannot be used for the hosts of target, as far as that is known; empty when it can."""
        return source.why_not(FAMILIES if target is None else _families_of(target))

    def choice_of(self, pool: str | None) -> Choice:
        """What mail of a pool may leave by; nothing is assigned."""
        return NO_CHOICE if self._sources is None else self._sources.of_pool(pool)

    def on_source_failure(self, queue: ReadyQueue, failure: SourceFailure) -> None:
        """No connection could be made from the source of queue: what waits there finds its way again."""
        assert self._sources is not None
        self._sources.note_down()
        if queue.open:
            return  # others are up: they carry what waits
        target: Target = queue.target
        if not self._why_not(target):  # it depends on what a name leads to
            target.unfit_until = self._clock.monotonic() + UNFIT_S
        queue.expires = 0.0
        queue.divert()

    def tend_sources(self) -> None:
        """Look whether what could not be used can be again. Call it about once a second."""
        if self._sources is None:
            return
        self._sources.tell_missing()
        if self._sources.look_again():
            self._dispatcher.by_domain.clear()  # mail goes by what it was assigned to, and not by what stood in for it
            for reason in self._source_reasons:
                self._dispatcher.schedule.unblock(reason)
            for queue in self.queues:
                if queue.reason in self._source_reasons:
                    queue.blocked_until, queue.reason = 0.0, None
            self._source_reasons.clear()

    # -------------------------------------------------------------- next hops that the configuration names

    def _queue_of(self, way: Way, tls: TlsPolicy, choice: Choice) -> ReadyQueue:
        return self._by_usable_source(choice, partial(self._fixed_queue, way, tls))

    def _fixed_queue(self, way: Way, tls: TlsPolicy, source: Source | None) -> ReadyQueue:
        queue = self._fixed.get((way, tls, source))
        if queue is None:
            queue = self._fixed[way, tls, source] = self._make_queue(way.route, tls, source)
        queue.expires = float("inf")
        return queue

    def _make_queue(self, route: Route, tls: TlsPolicy, source: Source | None) -> ReadyQueue:
        if route.kind in {"discard", "maildir", "pipe", "bounce"}:
            queue = self.hand_offs.queue_of(route, self._limit_of(route))
        else:
            hop, site = _names_of(route)
            queue = ReadyQueue(
                self._dispatcher,
                hop,
                site.encode("ascii", "replace"),
                self._fixed_target(route, tls, source),
                limit=self._limit_of(route),
                connect=self._connector.connect,
                source=_name_of(source),
            )
        queue.largest_octets = route.message_size_octets or 0
        queue.provider = self.providers.of_hosts(hop.to.host for hop in route.hops if hop.to.host)
        return queue

    def _fixed_target(self, route: Route, tls: TlsPolicy, source: Source | None) -> Target:
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
            source=source,
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

    def _site_of(self, way: Way, tls: TlsPolicy, name: str, choice: Choice) -> ReadyQueue | None:
        """The ready queue of a domain whose mail hosts are known and fresh, where its mail goes one way alone."""
        known = self._dispatcher.known(name.encode("ascii"), choice.number)
        if known is None or known.expires <= self._clock.monotonic():
            return None
        source = known.target.source if known.target is not None else None
        return known if self._sites.get((way, tls, known.site.decode("ascii"), source)) is known else None

    def _pool_row(self, choice: Choice) -> int:
        return self._dispatcher.counters.row(Dimension.DIMENSION_POOL, choice.pool.encode("ascii"))

    def _hold_for_names(
        self,
        message: Message,
        way: Way,
        tls: TlsPolicy,
        name: str,
        choice: Choice,
        indices: list[int],
        by_domain: bool,
    ) -> None:
        if self._looking_up >= self._most_looking_up and not self._lookup.knows(name):
            # a tail of new names waits on disk for its turn, which is no attempt; a known one is never behind it
            self._crowded.blocked_until = self._clock.monotonic() + CROWDED_S
            self._dispatcher.send(message, self._crowded, indices)
            return
        # a delivery of its own keeps the message under way until the names are known
        waiting = ReadyQueue(
            self._dispatcher,
            MX,
            name.encode("ascii"),
            hand_over=partial(self._look_up, way, tls, name, choice, by_domain),
        )
        provider = self.providers.of_domain(name.encode("ascii"))
        self._dispatcher.send(message, waiting, indices, provider, self._pool_row(choice))

    def _look_up(
        self, way: Way, tls: TlsPolicy, name: str, choice: Choice, by_domain: bool, delivery: Delivery
    ) -> None:
        self._looking_up += 1
        began = None if self._lookup.knows(name) else self._clock.monotonic()  # what is known takes no time
        self._lookup.ask_then(
            MAIL_HOSTS, name, partial(self._go_on, way, tls, name, choice, by_domain, delivery, began)
        )

    def _go_on(
        self,
        way: Way,
        tls: TlsPolicy,
        name: str,
        choice: Choice,
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
        queue = self._by_usable_source(choice, partial(self._site_queue, way, tls, hosts))
        if by_domain:
            provider = self.providers.of_domain(name.encode("ascii"))
            self._dispatcher.remember(name.encode("ascii"), queue, choice.number, provider)
        self._dispatcher.redirect(delivery, queue)

    def _site_target(self, route: Route, tls: TlsPolicy, hosts: MailHosts, source: Source | None) -> Target:
        terms = self._terms_of(route)
        return Target(_at_addresses(hosts), tls=tls, by_mx=True, terms=terms, found=hosts.hosts, source=source)

    def _site_queue(self, way: Way, tls: TlsPolicy, hosts: MailHosts, source: Source | None) -> ReadyQueue:
        queue = self._sites.get((way, tls, hosts.site, source))
        if queue is None:
            if len(self._sites) >= MOST_SITES:
                self._forget_idle_sites()
            queue = ReadyQueue(
                self._dispatcher,
                MX,
                hosts.site.encode("ascii", "replace"),
                self._site_target(way.route, tls, hosts, source),
                limit=self._limit_of(way.route),
                connect=self._connector.connect,
                source=_name_of(source),
            )
            queue.largest_octets = way.route.message_size_octets or 0
            queue.provider = self.providers.of_hosts(host.name for host in hosts.hosts)
            self._sites[way, tls, hosts.site, source] = queue
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


def _leaves(route: Route) -> bool:
    """Whether a connection over a network leads to its next hops, or to some."""
    return route.kind == "mx" or any(hop.to.kind in SESSION_KINDS and not hop.to.path for hop in route.hops)


def _name_of(source: Source | None) -> bytes:
    return (DEFAULT_SOURCE if source is None else source.name).encode("ascii")


def _families_of(target: Target) -> tuple[socket.AddressFamily, ...]:
    """Those by which one of the hosts can be reached; both, where a name is yet to be looked up."""
    hosts = [host for host in target.hosts if not host.is_local]
    if not hosts or any(not is_address(host.address) for host in hosts):
        return FAMILIES
    found = {family_of(host) for host in hosts}
    return tuple(family for family in FAMILIES if family in found)


def _sources_of(choice: Choice) -> list[Source | None]:
    return [source for _, source in choice.candidates] or [None]


def _usable(choice: Choice, target: Target) -> Source | None:
    """The source that mail to target would leave by; the assigned one when none can be used."""
    families = _families_of(target)
    usable = (source for source in choice.usable() if not source.why_not(families))
    return next(usable, _sources_of(choice)[0])


def _destination(
    hop: str,
    site: str,
    target: Target | None,
    queues: dict[Source | None, ReadyQueue | None],
    source: Source | None,
    limit: int,
) -> Destination:
    made = tuple(queue for queue in queues.values() if queue is not None)
    return Destination(hop, site, target, queues.get(source), limit, made)


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
