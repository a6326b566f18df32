"""The relays of `bench.load`, each with another way to the same next hop; nothing runs here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.domains.relays import SMTP_PORT
from bench.load.relays import Angarium, Postfix

if TYPE_CHECKING:
    from bench.domains.names import Names
    from bench.load.relays import Ground

OTHER_ROUTES = 1_000
OTHER_DOMAINS = 100


class AngariumFixed(Angarium):
    """One route for everything, to an address, without TLS: the least there can be."""

    name = "fixed"
    summary = "Angarium: one route, to an address, tls = none"

    def __init__(self, ground: Ground, host: str) -> None:
        super().__init__(ground)
        self._host = host

    def settings(self) -> str:
        """As in `bench.load`, with the next hop at port 25."""
        before, _, _ = super().settings().partition("[[route]]")
        return f"""{before}[delivery]
tls = "none"
[[route]]
recipients = ["*"]
next_hop = "smtp://{self._host}:{SMTP_PORT}"
"""


class AngariumPolicy(Angarium):
    """By MX behind a thousand routes for others, with DNSSEC, DANE, MTA-STS, reports, policies for other domains."""

    name = "policy"
    summary = f"Angarium: by MX behind {OTHER_ROUTES:,} routes, DNSSEC, DANE, MTA-STS, TLS reports and policies on"

    def __init__(self, ground: Ground, names: Names) -> None:
        super().__init__(ground)
        self._names = names

    def settings(self) -> str:
        """As in `bench.load`, with everything between the queue and the connection that can be asked for."""
        before, _, _ = super().settings().partition("[[route]]")
        routes = "".join(
            f'[[route]]\nrecipients = ["r{number}.other.example", "*.s{number}.other.example"]\n'
            f'next_hop = "smtp://127.0.0.1:{SMTP_PORT}"\n'
            for number in range(OTHER_ROUTES)
        )
        domains = ", ".join(f'"p{number}.other.example"' for number in range(OTHER_DOMAINS))
        return f"""{before}[dns]
servers = ["{self._names.address}:{self._names.port}"]
dnssec = "trust-ad"
[delivery]
never_contact = []
address_family = "ipv4-only"
tls = "opportunistic"
[[tls_policy]]
domains = [{domains}]
tls = "verify"
{routes}[[route]]
recipients = ["*"]
next_hop = "mx"
"""


class AngariumTls(Angarium):
    """TLS required of the next hop."""

    summary = 'Angarium, tls = "require"'

    def __init__(self, ground: Ground, port: int) -> None:
        super().__init__(ground)
        self._port = port

    def settings(self) -> str:
        """As in `bench.load`, to the port where TLS is spoken."""
        before, _, _ = super().settings().partition("[[route]]")
        return f"""{before}[delivery]
tls = "require"
[[route]]
recipients = ["*"]
next_hop = "smtp://127.0.0.1:{self._port}"
"""


class PostfixTls(Postfix):
    """The same of Postfix, whose connections to a busy next hop are kept and used again, under TLS too."""

    summary = "Postfix from Debian, tuned, smtp_tls_security_level = encrypt"

    def __init__(self, ground: Ground, port: int) -> None:
        super().__init__(ground)
        self._port = port

    def settings(self) -> str:
        """As in `bench.load`, to the port where TLS is spoken; tlsproxy(8) keeps connections open between messages."""
        lines = [line for line in super().settings().splitlines() if not line.startswith("relayhost")]
        return "\n".join(
            [
                *lines,
                f"relayhost = [127.0.0.1]:{self._port}",
                "smtp_tls_security_level = encrypt",
                "smtp_tls_connection_reuse = yes",
                "smtp_connection_cache_on_demand = yes",
                "",
            ]
        )

    def write_settings(self) -> None:
        """Debian's master.cf has tlsproxy(8) as a comment only."""
        super().write_settings()
        with (self.state / "master.cf").open("a", encoding="ascii") as file:
            file.write("tlsproxy unix - - n - 0 tlsproxy\n")
