"""Which TLS policy holds for a route, for a domain, for a message.

Job: settle who has the say. Input: the configuration; a route or a domain; a message's flags. Output: a TlsPolicy with
its source. It never fails.

For a next hop that a route names, the route's own setting, else `delivery.tls`. For a domain by MX, that of its route,
else the first `[[tls_policy]]` with its domain, else `delivery.tls`. What the configuration says with "none", "verify",
"dane" or "fingerprint" is final; "opportunistic" and "require" leave room for what a domain says of itself (TLSA
records, MTA-STS). Then the message: with REQUIRETLS nothing less than an authenticated host that offers it too will do
(RFC 8689 §4.2.1), and `TLS-Required: No` sets aside what the domain says of itself, not what the operator says
(§4.3)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from angarium._core.record import MessageFlag
from angarium.delivery.target import NOT_REQUIRED, TlsPolicy

if TYPE_CHECKING:
    from angarium.config.model import Delivery, TlsRule, TlsSettings
    from angarium.delivery.mta_sts import Policy
    from angarium.delivery.route import RouteMatch
    from angarium.delivery.target import TlsLevel

__all__ = ["OWN_POLICY", "TlsPolicies", "as_published", "for_domain", "for_message"]

OWN_POLICY = MessageFlag.MESSAGE_REQUIRETLS | MessageFlag.MESSAGE_TLS_REQUIRED_NO  # the message has a say itself

_FINAL = {"none", "verify", "dane", "fingerprint"}


class TlsPolicies:
    """What the configuration says. It does not change; a reload makes a new one."""

    def __init__(self, delivery: Delivery, rules: tuple[TlsRule, ...] = ()) -> None:
        self._default = TlsPolicy(delivery.tls, dane=delivery.tls not in _FINAL or delivery.tls == "dane")
        self._policies = [_made(rule, self._default, f"tls_policy[{number}]") for number, rule in enumerate(rules)]
        self._routes: dict[int, TlsPolicy] = {}  # by position
        self._any = len(rules)
        self._domains: dict[bytes, int] = {}
        self._above: dict[bytes, int] = {}
        for number, rule in enumerate(rules):
            for pattern in rule.domains:
                if pattern.kind == "any":
                    self._any = min(self._any, number)
                elif pattern.kind == "domain":
                    self._domains.setdefault(pattern.domain, number)
                elif pattern.kind == "subdomain":
                    self._above.setdefault(pattern.domain, number)

    def of(self, match: RouteMatch, domain: bytes) -> TlsPolicy:
        """For mail to a domain (in ASCII) that takes this route."""
        policy = self._of_route(match)
        if match.route.kind != "mx" or policy is not self._default:
            return policy
        name = domain.lower()
        best = min(self._any, self._domains.get(name, self._any))
        dot = name.find(b".", 1)
        while dot >= 0:
            best = min(best, self._above.get(name[dot + 1 :], best))
            dot = name.find(b".", dot + 1)
        return self._policies[best] if best < len(self._policies) else self._default

    def _of_route(self, match: RouteMatch) -> TlsPolicy:
        policy = self._routes.get(match.position)
        if policy is None:
            name = match.route.name
            source = f"route[{match.position}]" if name is None else f'route "{name}"'
            policy = self._routes[match.position] = _made(match.route, self._default, source)
        return policy


def _made(settings: TlsSettings, default: TlsPolicy, source: str) -> TlsPolicy:
    written = (
        settings.tls,
        settings.tls_name,
        settings.tls_ca,
        settings.tls_certificate,
        settings.tls_key,
    )
    if all(value is None for value in written) and not settings.tls_fingerprints:
        return default
    level = settings.tls or default.level
    return TlsPolicy(
        level,
        source,
        dane=level not in _FINAL or level == "dane",
        name=settings.tls_name or "",
        ca=settings.tls_ca or "",
        certificate=settings.tls_certificate or "",
        key=settings.tls_key or "",
        fingerprints=tuple(fingerprint.sha256 for fingerprint in settings.tls_fingerprints),
    )


def for_message(policy: TlsPolicy, flags: int, reverse_path: bytes) -> TlsPolicy:
    """The policy as it holds for a message with these flags (MessageFlag).

    Notifications ask for REQUIRETLS too, and are not held up by a host that does not have it (RFC 8689 §5).
    """
    if flags & MessageFlag.MESSAGE_REQUIRETLS:
        if not reverse_path:
            return policy
        source = f"REQUIRETLS and {policy.source}"
        if policy.level in {"verify", "dane", "fingerprint"}:
            return replace(policy, source=source, requiretls=True)
        return replace(policy, level="verify", source=source, dane=True, requiretls=True)
    if flags & MessageFlag.MESSAGE_TLS_REQUIRED_NO and policy.dane and policy.level != "dane":
        # one that asks for more than "require", and is not the configuration's, is the domain's own (MTA-STS)
        level: TlsLevel = "require" if policy.level == "require" else "opportunistic"
        return replace(policy, level=level, source=NOT_REQUIRED, dane=False, mx=(), domain="")
    return policy


def for_domain(policy: TlsPolicy, domain: str, sts: Policy | None) -> TlsPolicy:
    """The policy as it holds for the mail hosts of a domain that has this MTA-STS policy (RFC 8461 §5).

    One that is enforced asks for a verified certificate of a host that it names; one that is being tested changes
    nothing but what is reported.
    """
    if sts is None or sts.mode == "none" or not policy.dane or policy.level == "dane":
        return policy
    if sts.mode == "testing":
        return replace(policy, domain=domain, sts=sts)
    source = f"the MTA-STS policy of {domain}"
    if policy.requiretls:
        source = f"REQUIRETLS and {source}"
    return replace(policy, level="verify", source=source, mx=sts.patterns, domain=domain, sts=sts)


def as_published(policy: TlsPolicy) -> TlsPolicy:
    """What a policy that is `in_testing` would ask for if it were enforced."""
    assert policy.sts is not None
    source = f"the MTA-STS policy of {policy.domain}, in testing"
    return replace(policy, level="verify", source=source, mx=policy.sts.patterns)
