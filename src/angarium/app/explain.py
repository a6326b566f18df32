"""Where mail to an address would go, and why: the worker's part of `angarium explain`.

Input: an Inquiry: a recipient, and what routes may ask of the mail. Output: plain values in the shape of the API
(angarium.admin.model.Explanation): the route and its place in the configuration, the routes that would come first if
their conditions held, what DNS says, the hosts in the order in which the next connection would try them, TLS policy,
source pool, limits, this worker's connections and ready queue, what would keep a message waiting now, what inbound
listeners say to a stranger, and on demand a session up to RCPT. Names are looked up and recipients verified as for
mail; nothing else is changed, and no mail is sent.

Fails: ValueError for an address that is none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from angarium.app.moment import rfc3339
from angarium.config.source import DEFAULT_SOURCE
from angarium.delivery.dial import where_of
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.route import LAST_RESORT, StatedCircumstances
from angarium.delivery.target import for_host
from angarium.delivery.tls import refusal_of
from angarium.delivery.trial import try_out
from angarium.mail.address import ascii_domain, split_mailbox
from angarium.policy.permission import PermissionIndex
from angarium.policy.tenancy import pool_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from angarium._core.dispatch import ReadyQueue
    from angarium.clock import Clock
    from angarium.config.model import Config, Route
    from angarium.delivery.attempt import Destination, Router
    from angarium.delivery.connection import Connector
    from angarium.delivery.mail_host import MailHosts
    from angarium.delivery.source import Choice
    from angarium.delivery.target import Host, Target
    from angarium.delivery.trial import Trial
    from angarium.queue.suspension import Suspension

__all__ = ["Explainer", "Inquiry"]

LONGEST_ADDRESS = 1000


class Inquiry(msgspec.Struct, forbid_unknown_fields=True, rename={"sender": "from"}):
    """What is asked. `trial`: a session up to RCPT is wanted."""

    address: str
    sender: str = ""
    tenant: str = ""
    listener: str = ""
    log_in: str = ""
    trial: bool = False


@dataclass(frozen=True)
class Explainer:
    """Answers for one worker."""

    worker: int
    config: Config
    config_file: str
    router: Router
    connector: Connector
    mail_hosts: Callable[[str], Awaitable[MailHosts]]
    inbound: Callable[[bytes], Awaitable[list[tuple[str, str]]]]
    suspended: Callable[[], Mapping[tuple[str, str], Suspension]]
    draining: Callable[[], bool]
    clock: Clock

    async def explain(self, inquiry: Inquiry) -> dict[str, Any]:
        """The answer."""
        address, sender = _checked(inquiry.address), _checked(inquiry.sender)
        local, domain = split_mailbox(address.encode("utf-8"))
        try:
            name = ascii_domain(domain).decode("ascii")
        except ValueError as why:
            raise ValueError(f"{address!r} is not an address: {why}") from None
        mail = StatedCircumstances(
            sender.encode("utf-8"), inquiry.tenant.encode(), inquiry.listener.encode(), inquiry.log_in.encode()
        )
        match = self.router.routes.lookup(local, domain, mail)
        route = match.route
        hosts: MailHosts | None = None
        failure: ResolutionFailure | None = None
        if route.kind == "mx":
            try:
                hosts = await self.mail_hosts(name)
            except ResolutionFailure as why:
                failure = why
        pool, of = self._pool(inquiry, route)
        choice = self.router.choice_of(pool)
        destination = self.router.would_take(match, name, hosts, choice)
        target = destination.target
        in_order = [] if target is None else await self.connector.in_order(target, look=True)
        blocks = self._blocks(name, inquiry.tenant, route, destination, failure)
        if target is not None and not in_order:
            blocks.append("none of the hosts has an address")
        answer: dict[str, Any] = {
            "address": address,
            "route": self._route(route, match.position),
            "ahead": [
                self._route(other.route, other.position)
                for other in self.router.routes.ahead(local, domain)
                if other.position < match.position
            ],
            "next_hop": destination.next_hop,
            "site": destination.site or None,
            "dns": self._dns(name, hosts, failure) if route.kind == "mx" else None,
            "hosts": [self._host(host, target) for host in in_order] if target is not None else [],
            "tls": None if target is None else {"level": target.tls.level, "source": target.tls.source},
            "source": self._source(pool, of, choice, destination),
            "limits": self._limits(route, destination),
            "workers": [self._worker(destination)],
            "blocks": blocks,
            "trial": None,
            "inbound": [
                {"listener": name, "reply": reply} for name, reply in await self.inbound(address.encode("utf-8"))
            ],
        }
        if inquiry.trial and target is not None:
            answer["trial"] = _trial(await try_out(self.connector, target, sender, address))
        return answer

    # -------------------------------------------------------------- parts

    def _route(self, route: Route, position: int) -> dict[str, Any]:
        conditions = {
            "recipients": [str(pattern) for pattern in route.recipients],
            "senders": [str(pattern) for pattern in route.senders],
            "tenants": list(route.tenants),
            "listeners": list(route.listeners),
            "log_ins": [str(pattern) for pattern in route.log_ins],
            "headers": {condition.name: str(condition.value) for condition in route.headers},
        }
        last = route is LAST_RESORT
        return {
            "name": route.name,
            "file": None if last else self.config_file or None,
            "position": None if last else position,
            "next_hop": [str(hop.to) for hop in route.hops],
            "conditions": {key: value for key, value in conditions.items() if value},
        }

    def _dns(self, name: str, hosts: MailHosts | None, failure: ResolutionFailure | None) -> dict[str, Any]:
        return {
            "domain": name,
            "failure": None if failure is None else str(failure),
            "secure": None if hosts is None else hosts.secure,
            "mta_sts": None if hosts is None or hosts.mta_sts is None else hosts.mta_sts.mode,
            "hosts": [
                {
                    "name": host.name,
                    "preference": host.preference,
                    "addresses": list(host.addresses),
                    "tlsa": None if host.tlsa is None else len(host.tlsa),
                }
                for host in (hosts.hosts if hosts is not None else ())
            ],
            "expires_s": None if hosts is None else round(max(0.0, hosts.expires - self.clock.monotonic()), 3),
        }

    def _pool(self, inquiry: Inquiry, route: Route) -> tuple[str | None, str | None]:
        """The source pool of such mail, and what gives it to it."""
        config = self.config
        listener = next((each for each in config.listener if each.name == inquiry.listener), None)
        tenant = inquiry.tenant or (listener.tenant if listener is not None else None) or ""
        found = PermissionIndex(config.permission).find(
            inquiry.listener, address="", log_in=inquiry.log_in, tenant=tenant
        )
        permission = found[1] if found is not None else None
        of = config.tenant_named(permission.tenant if permission is not None and permission.tenant else tenant)
        own = pool_of(permission, of)
        if own:
            return own, "permission" if permission is not None and permission.source_pool else "tenant"
        return route.source_pool, "route" if route.source_pool else None

    def _source(
        self, pool: str | None, of: str | None, choice: Choice, destination: Destination
    ) -> dict[str, Any] | None:
        target = destination.target
        if target is None or pool is None:
            return None
        return {
            "pool": pool,
            "of": of,
            "name": DEFAULT_SOURCE if target.source is None else target.source.name,
            "hostname": self.config.node.hostname if target.source is None else target.source.hostname,
            "sources": [
                {
                    "name": source.name,
                    "addresses": list(source.addresses.values()),
                    "hostname": source.hostname,
                    "weight": outlet.weight,
                    "why_not": self.router.why_not(source, target) or None,
                }
                for outlet, source in choice.candidates
            ],
        }

    def _host(self, host: Host, target: Target) -> dict[str, Any]:
        policy = for_host(target.tls, host)
        refusal = refusal_of(policy, host, where_of(host))
        return {
            "name": host.name,
            "address": host.address,
            "port": host.port,
            "tls": {"level": policy.level, "source": policy.source},
            "refused": None if refusal is None else refusal.text,
            "rests_s": round(self.connector.order_of(target).rests_for(host, target.tls), 3),
        }

    def _limits(self, route: Route, destination: Destination) -> dict[str, Any]:
        config = self.config.delivery
        limits: dict[str, Any] = {
            "connections": route.connections or config.connections_per_host,
            "connections_of_a_worker": destination.limit,
            "message_size": route.message_size_octets,
        }
        if destination.target is not None:
            terms = destination.target.terms
            limits |= {
                "messages_per_connection": terms.messages_per_connection or None,
                "idle_s": terms.idle_s,
                "timeouts_s": {
                    key.removesuffix("_s"): value for key, value in msgspec.structs.asdict(terms.timeouts).items()
                },
            }
        return limits

    def _worker(self, destination: Destination) -> dict[str, Any]:
        queue = destination.queue
        if queue is None:
            return {"worker": self.worker, "open": 0, "connecting": 0, "idle": 0, "ready": 0, "sent": 0} | {
                "failures": 0,
                "blocked_until": None,
                "reason": None,
            }
        queues = destination.queues
        return {
            "worker": self.worker,
            "open": sum(each.open for each in queues),
            "connecting": sum(each.connecting for each in queues),
            "idle": sum(len(each.idle) for each in queues),
            "ready": sum(each.backlog for each in queues),
            "sent": sum(each.sent for each in queues),
            "failures": queue.failures,
            "blocked_until": self._until(queue),
            "reason": None if queue.reason is None or not queue.rests else queue.reason.decode("utf-8", "replace"),
        }

    def _until(self, queue: ReadyQueue) -> str | None:
        """When a next hop that is left alone is tried again."""
        rest_s = max(queue.blocked_until, queue.suspended_until) - self.clock.monotonic()
        return rfc3339(time.time() + rest_s) if rest_s > 0 else None

    def _blocks(
        self, name: str, tenant: str, route: Route, destination: Destination, failure: ResolutionFailure | None
    ) -> list[str]:
        """What would keep a message from being tried now, or from ever being delivered."""
        found = []
        now = self.clock.now()
        source = destination.target.source if destination.target is not None else None
        named = DEFAULT_SOURCE if source is None else source.name
        for key in (("tenant", tenant), ("domain", name), ("site", destination.site), ("source", named)):
            suspension = self.suspended().get(key)
            if suspension is not None and suspension.until.timestamp() > now:
                by = f" by {suspension.by}" if suspension.by else ""
                until = rfc3339(suspension.until.timestamp())
                found.append(f"{suspension.kind} {suspension.name} is suspended{by} until {until}: {suspension.reason}")
        if failure is not None:
            found.append(f"its mail hosts: {failure}")
        if route.kind == "bounce":
            code, enhanced, text = route.hops[0].to.reply
            found.append(f"the route's answer is {code} {'.'.join(map(str, enhanced))} {text}")
        why = self.router.why_not(source, destination.target) if source is not None else ""
        if why:
            found.append(f"none of the pool's sources can be used: {why}")
        queue = destination.queue
        if queue is not None and queue.rests and queue.blocked_until > self.clock.monotonic():
            reason = (queue.reason or b"").decode("utf-8", "replace")
            found.append(f"the next hop is left alone until {self._until(queue)}: {reason}")
        elif queue is not None and destination.target is not None and queue.backlog and queue.open >= queue.limit:
            found.append(f"all {queue.limit} connections are busy, and {queue.backlog} messages are before it")
        if self.draining():
            found.append(f"worker {self.worker} is being stopped")
        return found


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "hosts": [{"host": host, "failure": failure or None} for host, failure in trial.hosts],
        "tls": trial.tls,
        "dialogue": [{"command": command, "reply": reply or None} for command, reply in trial.dialogue],
        "accepted": trial.accepted,
        "failure": trial.failure,
    }


def _checked(address: str) -> str:
    """An address as it stands between < and >, which can be put into a command."""
    if len(address) > LONGEST_ADDRESS or not address.isprintable() or any(mark in address for mark in "<>"):
        raise ValueError(f"{address[:80]!r} is not an address")
    return address
