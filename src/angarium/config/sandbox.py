"""The sandbox's own configuration, and the proof that a configuration stays on the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium.config.address import ListenAddress, Network
from angarium.config.check import check_nothing_leaves
from angarium.config.model import Admin, Config, Events, Listener, Node, Route, Tls
from angarium.config.next_hop import NextHop
from angarium.config.problem import ConfigErrors, Findings
from angarium.mail.pattern import AddressPattern

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOOPBACK", "SANDBOX_HOSTNAME", "check_sandbox", "sandbox_config"]

SANDBOX_HOSTNAME = "sandbox.test"  # RFC 2606 §2: never a name in the DNS
LOOPBACK = (Network.parse("127.0.0.0/8"), Network.parse("::1/128"))


def sandbox_config(
    *,
    spool: Path,
    smtp_port: int,
    submission_port: int,
    submissions_port: int,
    http_port: int,
    sink_port: int,
    certificate: Path,
    key: Path,
) -> Config:
    """Three listeners on 127.0.0.1, and one route for everything: to the sink on 127.0.0.1:sink_port.

    SMTP for anyone on the machine, STARTTLS offered; submission with STARTTLS and submission over TLS, both with any
    log-in. `certificate` and `key` must be there before the listeners start; the spool need not.
    """
    spool = spool.absolute()

    def address(port: int) -> ListenAddress:
        return ListenAddress(host="127.0.0.1", port=port)

    config = Config(
        node=Node(hostname=SANDBOX_HOSTNAME, spool=str(spool)),
        admin=Admin(listen=address(http_port)),
        tls=Tls(certificate=str(certificate.absolute()), key=str(key.absolute())),
        events=Events(file=str(spool / "events.jsonl")),
        listener=(
            Listener(name="smtp", listen=address(smtp_port), role="relay", tls="starttls", relay_networks=LOOPBACK),
            Listener(name="submission", listen=address(submission_port), role="submission", tls="starttls", auth="any"),
            Listener(
                name="submissions", listen=address(submissions_port), role="submission", tls="implicit", auth="any"
            ),
        ),
        route=(
            Route(
                name="sink",
                recipients=(AddressPattern(kind="any"),),
                next_hop=NextHop(kind="smtp", host="127.0.0.1", port=sink_port),
            ),
        ),
        sandbox=True,
    )
    check_sandbox(config)
    return config


def check_sandbox(config: Config) -> None:
    """Raise ConfigErrors for each listener that others could reach and each route that could leave the machine."""
    findings = Findings()
    check_nothing_leaves(config, findings)
    if findings.found:
        raise ConfigErrors(tuple(finding.at("sandbox", 0, 0) for finding in findings.found))
