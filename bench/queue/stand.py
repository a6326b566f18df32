"""What every scenario works with: the ground of `bench.load`, the ports of the next hops, and the sizes."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.load.relays import RelayFailure
from bench.load.stage import say
from bench.load.traffic import Sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.load.accounting import ProcessGroup
    from bench.load.relays import Ground


@dataclass(frozen=True)
class Ports:
    """All on 127.0.0.1. The first two are those of `bench.load`; a relay beside the first one has its own two."""

    @classmethod
    def starting_at(cls, first: int) -> Ports:
        return cls(*range(first, first + len(dataclasses.fields(cls))))

    relay: int = 2525
    sink: int = 2526
    refusing: int = 2527
    slow: int = 2528
    probe: int = 2529
    second_relay: int = 2535
    admin: int = 8925
    second_admin: int = 8926


@dataclass(frozen=True)
class Sizes:
    """How large and how long. The defaults are those of `make bench-queue`; a smoke run shrinks them all."""

    # depth
    messages: int = 1_000_000
    domains: int = 100_000
    octets: int = 1024
    accept_repetitions: int = 5
    accept_seconds: float = 5.0
    idle_seconds: float = 6.0  # before memory is read: a worker looks every five whether it is idle
    warm_up: int = 20_000
    pass_seconds: float = 240.0  # at most: it ends when every message was tried
    retry_first: str = "4h"  # longer than the scenario takes: a retry comes when the bench asks for it
    # dead next hop
    dead_messages: int = 50_000
    dead_octets: int = 10_240
    dead_repetitions: int = 3
    # head of line
    pile: int = 200_000
    pile_octets: int = 1024
    probe_rate: float = 50.0
    probe_seconds: float = 20.0
    # space amplification
    space_seconds: float = 120.0
    space_rate: int = 1_000
    space_octets: int = 10_240
    space_segment_mib: int = 2
    space_least_mib: int = 64  # of mail alive, from which on the ratio counts
    # ten million
    huge_messages: int = 10_000_000
    huge_domains: int = 1_000_000
    huge_octets: int = 200
    # all
    sessions: int = 100
    limit_s: float = 900.0  # the longest that any one step may take


@dataclass
class Stand:
    """`second_group` accounts for a relay that runs beside the first one."""

    ground: Ground
    second_group: ProcessGroup
    ports: Ports = field(default_factory=Ports)
    sizes: Sizes = field(default_factory=Sizes)
    look_s: float = 1.0  # between two looks at the metrics: a scrape costs the machine some milliseconds
    say: Callable[[str], None] = say

    def second_ground(self) -> Ground:
        return dataclasses.replace(
            self.ground,
            group=self.second_group,
            relay_port=self.ports.second_relay,
            admin_port=self.ports.second_admin,
        )

    def fast_sink(self) -> Sink:
        return Sink(self.ground.state, self.ports.sink)

    def refusing_sink(self, port: int | None = None) -> Sink:
        """Answers every RCPT with 450."""
        return Sink(self.ground.state, port or self.ports.refusing, ("-r", "rcpt"))

    def accepting_again(self) -> Sink:
        """The refusing one, of another mind."""
        return Sink(self.ground.state, self.ports.refusing)

    def slow_sink(self, delay_s: int) -> Sink:
        """Waits so long before it answers DATA."""
        return Sink(self.ground.state, self.ports.slow, ("-w", str(delay_s)))

    def wait(self, condition: Callable[[], bool], what: str, limit_s: float | None = None) -> float:
        """Seconds until condition holds; RelayFailure when it does not in time."""
        limit_s = self.sizes.limit_s if limit_s is None else limit_s
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > limit_s:
                raise RelayFailure(f"waited {limit_s:g} s for {what}")
            time.sleep(self.look_s)
        return time.monotonic() - start
