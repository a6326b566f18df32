"""`angarium doctor [DOMAIN]`: what of the machine, and of a domain, keeps mail from going well.

Prints a finding a line with its severity, and under it what can be done; with --json one document: `{"findings":
[{"subject", "severity", "reason", "remedy"}], "errors", "warnings"}`. Exits 1 when a finding is an error.

Nothing is changed, and nobody is asked but name servers, with DOMAIN the web server of its MTA-STS policy, and with
--outbound the host that it names.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import click

from angarium.cli.main import DEFAULT_CONFIG, config_option, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from angarium.cli.doctor.finding import Finding
    from angarium.config.model import Config

__all__ = ["doctor", "examine_all"]

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan", "ok": "green"}


@click.command(short_help="What of this machine, or of a domain, keeps mail from going well.")
@click.argument("domain", required=False)
@config_option
@click.option(
    "--selector", "selectors", multiple=True, metavar="NAME", help="DKIM selector of DOMAIN; may be repeated."
)
@click.option("--outbound", metavar="HOST[:PORT]", help="Connect to this mail host, to see whether port 25 is open.")
@json_option
@click.pass_context
def doctor(
    ctx: click.Context,
    domain: str | None,
    config: str | None,
    selectors: tuple[str, ...],
    outbound: str | None,
    as_json: bool,
) -> None:
    """Look at the machine (limits, disk, clock, ports, names, certificate, permissions) and at what the DNS says of
    DOMAIN (MX, SPF, DKIM, DMARC, MTA-STS, TLS-RPT, DANE), if one is given.

    Each finding has a reason and a remedy. Exits 1 when one of them is an error.
    """
    if selectors and domain is None:
        raise click.UsageError("--selector is of a DOMAIN")
    found: list[Finding] = []
    for finding in examine_all(config or DEFAULT_CONFIG, domain, selectors, outbound):
        found.append(finding)
        if not as_json:
            _show(finding)
    errors = sum(finding.severity == "error" for finding in found)
    warnings = sum(finding.severity == "warning" for finding in found)
    if as_json:
        import msgspec

        document = {"findings": found, "errors": errors, "warnings": warnings}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
    else:
        click.echo(f"{errors} error{'' if errors == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}")
    if errors:
        ctx.exit(1)


def _show(finding: Finding) -> None:
    from angarium.cli.client import printable

    severity = click.style(f"{finding.severity:<7}", fg=COLOURS[finding.severity])
    click.echo(f"{severity} {printable(f'{finding.subject}: {finding.reason}')}")
    if finding.remedy:
        click.echo(f"        {printable(finding.remedy)}")


def examine_all(
    file: str, domain: str | None, selectors: Sequence[str] = (), outbound: str | None = None
) -> Iterator[Finding]:
    """Every finding, as it is made. Without a configuration that can be used, what needs none is looked at."""
    from angarium.cli.doctor import machine
    from angarium.cli.doctor.domain import examine_domain
    from angarium.cli.doctor.finding import error, ok, warning
    from angarium.cli.doctor.names import NameServers
    from angarium.config.load import examine

    examination = examine(file)
    for problem in examination.problems:
        place = f"{problem.file}:{problem.line}:{problem.column}: " if problem.line else f"{problem.file}: "
        key = f"{problem.key}: " if problem.key else ""
        make = error if problem.severity == "error" else warning
        remedy = f'write "{problem.suggestion}"' if problem.suggestion else "correct it; angarium check shows the same"
        yield make("configuration", f"{place}{key}{problem.message}", remedy)
    if examination.config is not None:
        config = examination.config
        if not examination.problems:
            yield ok("configuration", f"{file} is valid")
        yield from _machine(config, file)
    else:
        config = _without_configuration()
        yield from machine.clock()
    if outbound is not None:
        yield from machine.outbound(outbound)
    if domain is not None:
        yield from examine_domain(config, NameServers(config), domain, selectors)


def _machine(config: Config, file: str) -> Iterator[Finding]:
    from angarium.cli.doctor import files, machine
    from angarium.cli.doctor.names import NameServers, own_name, resolvers, source_names

    names = NameServers(config)
    pid = machine.running_pid(config)
    yield from machine.descriptors(config, pid)
    yield from machine.disk(config)
    yield from machine.clock()
    yield from machine.ports(config, pid)
    yield from machine.sources(config)
    yield from files.certificates(config)
    yield from files.permissions(config, file)
    yield from resolvers(config, names)
    yield from own_name(config, names)
    yield from source_names(config, names)


def _without_configuration() -> Config:
    from angarium.config.model import Config, Node

    return Config(node=Node(hostname=socket.gethostname(), spool="/nonexistent"), listener=())
