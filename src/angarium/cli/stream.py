"""`angarium stream list|resend`: events on their way to other systems.

Fails: RelayError, exit status 1."""

from __future__ import annotations

import json

import click

from angarium.cli.client import RelayClient, RelayError, connecting, printable
from angarium.cli.status import show_streams

__all__ = ["stream"]


@click.group()
def stream() -> None:
    """Events on their way to other systems ([[stream]])."""


@stream.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def list_(client: RelayClient, *, as_json: bool) -> None:
    """Each stream: where it leads, how far it is behind, what it has sent."""
    report = client.get("status")["events"]
    if report is not None and report["status"] is None:
        raise RelayError(f"the events process does not answer: {printable(report['error'])}")
    streams = [] if report is None else report["status"]["streams"]
    if as_json:
        click.echo(json.dumps(streams))
    elif streams:
        show_streams(streams)
    else:
        click.echo("there are no streams", err=True)


@stream.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def resend(client: RelayClient, name: str, *, as_json: bool) -> None:
    """Send the dead letters of a stream once more."""
    answer = client.post("streams", name, "resend", body={})
    if as_json:
        click.echo(json.dumps(answer))
    else:
        click.echo(f"{answer['events']:,} dead letters are sent again" if answer["events"] else "no dead letters")
