"""The relays of `bench.load`, delivering by MX, with the resolver of the bench, on the cores that they are given.

Postfix asks whom /etc/resolv.conf names, at port 53: it is started in a mount namespace in which that file is another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.load.machine import on_cores
from bench.load.relays import Angarium, Postfix

if TYPE_CHECKING:
    import subprocess

    from bench.load.relays import Ground

    from .names import Names

SMTP_PORT = 25
PROCESSES = 300  # a connection carries one message here, so that Postfix wants more of them


class AngariumByMx(Angarium):
    """Angarium, which is not told any host."""

    def __init__(self, ground: Ground, names: Names, cores: frozenset[int]) -> None:
        super().__init__(ground)
        self._names = names
        self._cores = cores

    def start(self) -> None:
        """On its cores."""
        with on_cores(self._cores):
            super().start()

    def settings(self) -> str:
        """As in `bench.load`, with a resolver in place of the route, and without what Postfix does not do."""
        before, _, _ = super().settings().partition("[[route]]")
        return f"""{before}[dns]
servers = ["{self._names.address}:{self._names.port}"]
[delivery]
never_contact = []
address_family = "ipv4-only"
[mta_sts]
enabled = false
[tls_report]
enabled = false
"""


class PostfixByMx(Postfix):
    """Postfix, tuned as in `bench.load`, with as many clients as it can use."""

    process_limit = PROCESSES

    def __init__(self, ground: Ground, names: Names, cores: frozenset[int]) -> None:
        super().__init__(ground)
        self._names = names
        self._cores = cores

    def start(self) -> None:
        """On its cores."""
        with on_cores(self._cores):
            super().start()

    def unavailable(self) -> str | None:
        if self._names.port != 53:
            return "it can ask a resolver at port 53 only"
        return super().unavailable()

    def settings(self) -> str:
        """As in `bench.load`, without its next hop."""
        lines = super().settings().splitlines()
        kept = [line for line in lines if not line.startswith(("relayhost", "disable_dns_lookups"))]
        return "\n".join([*kept, "relayhost =", "disable_dns_lookups = no", "smtp_host_lookup = dns", ""])

    def control(self, verb: str) -> subprocess.CompletedProcess[str]:
        resolv_conf = self.state / "resolv.conf"
        resolv_conf.write_text(f"nameserver {self._names.address}\n", encoding="ascii")
        return super().control(verb)

    def starter(self) -> list[str]:
        script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", str(self.state / "resolv.conf")]
