"""Who may send what: the [[permission]] table. docs/configuration.md explains each key, docs/smart-host.md the use."""

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

from angarium.config.address import Network
from angarium.config.section import Section
from angarium.config.units import Size
from angarium.mail.pattern import TextPattern

__all__ = ["Permission", "Volume"]

Durability = Literal["fsync", "async", "memory"]
Recipients = Annotated[int, Meta(ge=1, le=1_000_000_000)]

_TIMES = re.compile(r"(\d+(?:\.\d+)?) ?x")


class Volume(Struct, frozen=True):
    """How much within an hour is unusual: so many recipients, or so many times what is usual. One of both is 0."""

    recipients: int = 0
    times: float = 0.0

    @classmethod
    def parse(cls, value: str | int) -> "Volume":
        if isinstance(value, int):
            if not 1 <= value <= 1_000_000_000:
                raise ValueError(f"{value} recipients an hour: from 1 to 1000000000")
            return cls(recipients=value)
        times = _TIMES.fullmatch(value)
        if times is None:
            raise ValueError(f'"{value}" is neither a number of recipients an hour nor a multiple such as "5x"')
        if not 1 < float(times[1]) <= 1000:
            raise ValueError(f'"{value}" is not between 1x and 1000x the usual')
        return cls(times=float(times[1]))

    def __str__(self) -> str:
        return f"{self.times:g}x" if self.times else str(self.recipients)


class Permission(Section, frozen=True):
    """What some clients may send, and what is done to their mail. The first permission that is for a client holds."""

    name: str | None = None
    log_ins: tuple[TextPattern, ...] = ()  # of this and the next three, empty: no condition
    networks: tuple[Network, ...] = ()
    tenants: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()
    reverse_paths: tuple[str, ...] | None = None  # patterns for addresses, with {log_in}; None: any
    from_addresses: tuple[str, ...] | None = None  # None: the reverse paths
    null_reverse_path: bool | None = None  # None: only where reverse_paths does not say otherwise
    recipients: Annotated[int, Meta(ge=1, le=65535)] | None = None  # of one message; None: the listener's limit
    recipients_per_hour: Recipients | None = None
    recipients_per_day: Recipients | None = None
    counted_by: Literal["sender", "tenant", "permission"] = "sender"  # sender: the log-in, else the address
    at_limit: Literal["refuse", "queue"] = "refuse"
    hold_above: Volume | None = None  # recipients of one log-in within an hour
    message_size_octets: Annotated[Size, Meta(ge=1, le=2_000_000_000)] | None = None  # None: the listener's limit
    durability: Durability | None = None  # None: the tenant's, or the listener's
    tenant: str | None = None  # None: as the client's address, or the listener, says
    source_pool: str | None = None  # None: the tenant's, or as the route says
    fix_up: bool | None = None  # None: on listeners of role submission, and for legacy devices
    hide_client: bool = False
    legacy: bool = False
    rewrite_from: str | None = None  # what a From and a reverse path that are not allowed become

    @property
    def counts(self) -> bool:
        """Whether anything is counted over time."""
        return bool(self.recipients_per_hour or self.recipients_per_day or self.hold_above)
