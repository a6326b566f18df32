"""SPF (RFC 7208): what a domain's record says of mail from one address.

Input: a domain, an address, a function that asks the DNS. Output: a Verdict with the result of check_host() (§2.6), the
look-ups that it took (§4.6.4: more than ten is a permanent error), and what is wrong, in words.

Macros (§7) depend on the message; a record that has one where it matters is `unjudged`. `ptr` is not followed: it must
not be published (§5.5).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from angarium.cli.doctor.names import NameServers

__all__ = ["Verdict", "check_host", "records_of"]

Result = Literal["pass", "fail", "softfail", "neutral", "none", "temperror", "permerror", "unjudged"]

MOST_LOOKUPS = 10
MOST_VOID_LOOKUPS = 2
RESULTS: dict[str, Result] = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}
_TERM = re.compile(r"(?P<sign>[-+~?]?)(?P<name>[A-Za-z][A-Za-z0-9_.-]*)(?P<mark>[:=/]?)(?P<rest>.*)", re.S)
_CIDR = re.compile(r"(?:/(\d{1,3}))?(?://(\d{1,3}))?$")


@dataclass
class Verdict:
    """`says` is the term that decided; `text` what is wrong with the record."""

    result: Result
    lookups: int
    text: str = ""
    says: str = ""


class _Stop(Exception):
    def __init__(self, result: Result, text: str) -> None:
        super().__init__(text)
        self.result = result


def records_of(texts: tuple[str, ...]) -> list[str]:
    """Those of a domain's TXT records that are SPF's (§4.5)."""
    return [text for text in texts if text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")]


def check_host(names: NameServers, domain: str, address: str) -> Verdict:
    """The result for mail from this address."""
    walk = _Walk(names, ipaddress.ip_address(address))
    try:
        result, says = walk.check(domain)
    except _Stop as stop:
        return Verdict(stop.result, walk.lookups, str(stop))
    return Verdict(result, walk.lookups, "", says)


class _Walk:
    def __init__(self, names: NameServers, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        self._names = names
        self._address = address
        self.lookups = 0
        self._void = 0

    def check(self, domain: str) -> tuple[Result, str]:
        answer = self._names.ask(domain, "TXT")
        if answer.failed:
            raise _Stop("temperror", f"nobody knows the TXT records of {domain} at present")
        found = records_of(answer.records)
        if len(found) > 1:
            raise _Stop("permerror", f"{domain} has {len(found)} SPF records")
        if not found:
            return "none", ""
        redirect = ""
        for term in found[0].split()[1:]:
            parsed = _TERM.fullmatch(term)
            if parsed is None:
                raise _Stop("permerror", f'{domain}: "{term}" is no term')
            name, mark, rest = parsed["name"].lower(), parsed["mark"], parsed["rest"]
            if mark == "=":
                redirect = rest if name == "redirect" else redirect
            elif self._matches(domain, name, mark + rest):
                return RESULTS[parsed["sign"] or "+"], term
        if redirect:
            self._count(redirect)
            result, says = self.check(self._spelt(redirect))
            if result == "none":
                raise _Stop("permerror", f"{domain}: redirect={redirect} leads to a domain without a record")
            return result, says
        return "neutral", ""

    def _matches(self, domain: str, name: str, rest: str) -> bool:
        match name:
            case "all":
                return True
            case "ip4" | "ip6":
                return self._in_network(name, rest.removeprefix(":"), domain)
            case "a" | "mx":
                return self._in_hosts(domain, name, rest)
            case "include":
                self._count(name)
                result, _ = self.check(self._spelt(rest.removeprefix(":")))
                if result == "none":
                    raise _Stop("permerror", f"{domain}: include{rest} leads to a domain without a record")
                return result == "pass"
            case "exists":
                self._count(name)
                return bool(self._addresses(self._spelt(rest.removeprefix(":"))))
            case "ptr":
                self._count(name)
                return False
        raise _Stop("permerror", f'{domain}: "{name}" is no mechanism')

    def _in_network(self, name: str, text: str, domain: str) -> bool:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise _Stop("permerror", f"{domain}: {name}:{text} is no network") from None
        return self._address.version == network.version and self._address in network

    def _in_hosts(self, domain: str, name: str, rest: str) -> bool:
        self._count(name)
        cidr = _CIDR.search(rest)
        assert cidr is not None  # it matches nothing at the end, at least
        host = self._spelt(rest[: cidr.start()].removeprefix(":") or domain)
        hosts = [host]
        if name == "mx":
            hosts = [record.split(" ")[1] for record in self._records(host, "MX")]
        four = self._address.version == 4
        bits = int((cidr[1] if four else cidr[2]) or self._address.max_prefixlen)
        for one in hosts[:10]:
            for found in self._addresses(one):
                if ipaddress.ip_address(found).version == self._address.version and self._address in (
                    ipaddress.ip_network(f"{found}/{bits}", strict=False)
                ):
                    return True
        return False

    def _addresses(self, host: str) -> tuple[str, ...]:
        return self._records(host, "A" if self._address.version == 4 else "AAAA")

    def _records(self, name: str, kind: str) -> tuple[str, ...]:
        answer = self._names.ask(name, kind)
        if answer.failed:
            raise _Stop("temperror", f"nobody knows the {kind} records of {name} at present")
        if not answer.records:
            self._void += 1
            if self._void > MOST_VOID_LOOKUPS:
                raise _Stop("permerror", f"more than {MOST_VOID_LOOKUPS} look-ups find nothing (RFC 7208 §4.6.4)")
        return answer.records

    def _count(self, what: str) -> None:
        self.lookups += 1
        if self.lookups > MOST_LOOKUPS:
            raise _Stop("permerror", f"more than {MOST_LOOKUPS} look-ups, at {what} (RFC 7208 §4.6.4)")

    @staticmethod
    def _spelt(domain: str) -> str:
        if "%" in domain:
            raise _Stop("unjudged", f"{domain} depends on the message")
        return domain
