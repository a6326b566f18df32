"""`angarium tls-report`: what became of TLS to mail hosts on a day, and how far the reports about it are.

The JSON of `--json` is the admin API's, unchanged. Fails: RelayError, exit status 1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from angarium.cli.client import RelayClient, connecting
from angarium.cli.show import show_table

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["tls_report"]

_POLICIES = {"tlsa": "DANE", "sts": "MTA-STS", "no-policy-found": "-"}


@click.command(name="tls-report")
@click.option("--domain", metavar="DOMAIN", help="This domain alone, with every failure and the reports about it.")
@click.option(
    "--day", type=click.DateTime(["%Y-%m-%d"]), metavar="YYYY-MM-DD", help="A day of UTC; today when none is given."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many domains.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def tls_report(client: RelayClient, *, domain: str | None, day: datetime | None, limit: int, as_json: bool) -> None:
    """Results of TLS sessions with mail hosts, by domain, those with most failures first."""
    answer = client.get("tls-report", day=None if day is None else day.date().isoformat(), domain=domain, limit=limit)
    if as_json:
        click.echo(json.dumps(answer))
        return
    if not answer["domains"]:
        about = "" if domain is None else f" with hosts of {domain}"
        click.echo(f"no TLS sessions{about} on {answer['day']}")
        return
    rows = [
        (
            found["domain"],
            _POLICIES.get(policy["type"], policy["type"]),
            f"{policy['successes']:,}",
            f"{policy['failures']:,}",
            _gravest(policy),
        )
        for found in answer["domains"]
        for policy in found["policies"]
    ]
    show_table(("domain", "policy", "over TLS", "failed", "most of them"), rows, right=(2, 3))
    if domain is not None:
        _show_details(answer["domains"][0])
    elif len(answer["domains"]) == limit:
        click.echo(f"the first {limit} domains are shown; see --limit", err=True)


def _gravest(policy: dict[str, Any]) -> str:
    details = policy["details"]
    return f"{details[0]['type']} ({details[0]['sessions']:,})" if details else "-"


def _show_details(found: dict[str, Any]) -> None:
    failures = [
        (
            detail["type"],
            f"{detail['sessions']:,}",
            detail["receiving_host"] or "-",
            detail["receiving_ip"] or "-",
            detail["reason"] or "-",
        )
        for policy in found["policies"]
        for detail in policy["details"]
    ]
    if failures:
        click.echo()
        show_table(("failure", "sessions", "host", "address", "reason"), failures, right=(1,))
    reports = [
        (report["address"] or "-", report["state"], str(report["attempts"]), report["text"] or "-")
        for report in found["reports"]
    ]
    if reports:
        click.echo()
        show_table(("report to", "state", "attempts", "last answer"), reports, right=(2,))
