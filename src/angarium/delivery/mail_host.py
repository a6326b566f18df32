"""The mail hosts of a domain, and what else DNS says of a name: plain values, which go from process to process as they
are.

A `site` is the same for all domains that are served by the same hosts in the same order. `expires` is a time of the
monotonic clock, which is one for all processes of a machine."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from angarium.delivery.mta_sts import Policy  # noqa: TC001  # msgspec reads the types

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MailHost", "MailHosts", "ResolutionFailure", "TextRecords", "Tlsa", "TlsaRecords", "no_answer", "site_of"]

LONGEST_SITE = 200


class Tlsa(NamedTuple):
    """A TLSA record, RFC 6698 §2.1, usable or not."""

    usage: int
    selector: int
    matching: int
    data: bytes


@dataclass(frozen=True, slots=True)
class MailHost:
    """One mail host: its name (of a literal the address) and its addresses, in the order in which to try them.

    `secure`: DNSSEC vouches for the way from the domain to these addresses. Only then `tlsa` is looked up
    (RFC 7672 §2.2): the records of `tlsa_base`, the name that the host's certificate and SNI are about. None: the
    host has no TLSA record, and DANE does not apply.
    """

    name: str
    addresses: tuple[str, ...]
    preference: int = 0
    secure: bool = False
    tlsa: tuple[Tlsa, ...] | None = None
    tlsa_base: str = ""


@dataclass(frozen=True, slots=True)
class MailHosts:
    """The hosts for a domain, the first to be tried first. `secure`: DNSSEC vouches for which hosts these are.

    `mta_sts`: the domain's policy (RFC 8461), of any mode; the hosts are all that DNS gives, whether it covers them or
    not.
    """

    domain: str
    hosts: tuple[MailHost, ...]
    site: str
    expires: float
    secure: bool = False
    mta_sts: Policy | None = None


@dataclass(frozen=True, slots=True)
class TlsaRecords:
    """The TLSA records of a name such as `_25._tcp.mx.example.org`; none is an answer too."""

    name: str
    records: tuple[Tlsa, ...]
    secure: bool
    expires: float


@dataclass(frozen=True, slots=True)
class TextRecords:
    """The TXT records of a name, the strings of each joined; none is an answer too."""

    name: str
    records: tuple[bytes, ...]
    secure: bool
    expires: float


class ResolutionFailure(Exception):
    """There is no host to deliver to: for now, or for good. The reply is what the recipient is given."""

    def __init__(self, permanent: bool, code: int, enhanced: tuple[int, int, int], text: str) -> None:
        super().__init__(f"{code} {'.'.join(map(str, enhanced))} {text}")
        self.permanent = permanent
        self.code = code
        self.enhanced = enhanced
        self.text = text


def no_answer(name: str) -> ResolutionFailure:
    """Nobody knows now."""
    return ResolutionFailure(False, 451, (4, 4, 3), f"no name server had an answer for {name}")


def site_of(exchangers: Sequence[tuple[int, str]]) -> str:
    """The key of a set of (preference, name), every name once.

    It is equal for two domains exactly when they want the same hosts in the same order.
    `(mx1|mx2>backup).example.org`: mx1 and mx2 have the same preference, backup a worse one, and the domain that all
    have in common stands behind. The preferences themselves do not count, and neither does the order of equal ones.
    """
    groups = [
        sorted(name for _, name in group) for _, group in groupby(sorted(exchangers), key=lambda record: record[0])
    ]
    names = [name.split(".") for group in groups for name in group]
    if len(names) == 1:
        return groups[0][0]
    common = 0
    while all(len(labels) > common + 1 and labels[-1 - common] == names[0][-1 - common] for labels in names):
        common += 1
    if common < 2:  # a top-level domain in common says nothing
        common = 0
    suffix = "." + ".".join(names[0][len(names[0]) - common :]) if common else ""
    text = ">".join("|".join(name.removesuffix(suffix) for name in group) for group in groups)
    site = f"({text}){suffix}"
    if len(site) <= LONGEST_SITE:
        return site
    return f"{site[: LONGEST_SITE - 17]}~{sha256(site.encode()).hexdigest()[:16]}"
