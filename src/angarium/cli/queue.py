"""`angarium queue summary|list|show`: what the running relay has in its queue.

The JSON of `--json` is the admin API's, unchanged. Fails: RelayError, exit status 1.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click

from angarium.cli.client import RelayClient, connecting, printable
from angarium.config.units import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ago", "octets_text", "queue", "show_table"]

STATES = ("ready", "scheduled", "held", "suspended", "in_doubt")
RECIPIENTS_SHOWN = 3


class DurationType(click.ParamType[float]):
    """A duration like 90s, 10m, 4h or 5d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group()
def queue() -> None:
    """Messages that the relay is responsible for."""


@queue.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def summary(client: RelayClient, *, as_json: bool) -> None:
    """The queue in numbers."""
    answer = client.get("queue", "summary")
    if as_json:
        click.echo(json.dumps(answer))
        return
    rows = [
        ("messages", f"{answer['messages']:,}"),
        ("recipients", f"{answer['recipients']:,}"),
        ("size", octets_text(answer["octets"])),
        ("oldest", "-" if answer["oldest_s"] is None else ago(answer["oldest_s"])),
        *((state.replace("_", " "), f"{count:,}") for state, count in answer["by_state"].items()),
    ]
    show_table(None, rows, right=(1,))


@queue.command(name="list")
@click.option("--to-domain", metavar="DOMAIN", help="Messages with a recipient in this domain.")
@click.option("--from", "reverse_path", metavar="ADDRESS", help="Messages with this reverse path.")
@click.option("--tenant", metavar="TENANT", help="Messages of this tenant.")
@click.option("--state", type=click.Choice(STATES), help="Messages in this state.")
@click.option("--older-than", type=DurationType(), metavar="DURATION", help="Accepted longer ago, as in 90s, 10m, 4h.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="At most so many, oldest first."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def list_(
    client: RelayClient,
    *,
    to_domain: str | None,
    reverse_path: str | None,
    tenant: str | None,
    state: str | None,
    older_than: float | None,
    limit: int,
    as_json: bool,
) -> None:
    """Messages of the queue, the oldest first."""
    answer = client.get(
        "queue",
        to_domain=to_domain,
        from_=reverse_path,
        tenant=tenant,
        state=state,
        older_than_s=older_than,
        limit=limit,
    )
    if as_json:
        click.echo(json.dumps(answer))
        return
    if not answer:
        click.echo("no messages")
        return
    rows = [
        (
            message["id"],
            message["state"].replace("_", " "),
            message["received"],
            octets_text(message["octets"]),
            f"<{message['reverse_path']}>",
            _recipients(message["recipients"]),
            next((r["reply"] for r in message["recipients"] if r["reply"]), ""),
        )
        for message in answer
    ]
    show_table(("id", "state", "accepted", "size", "from", "recipients", "last reply"), rows, right=(3,))
    if len(answer) == limit:
        click.echo(f"the first {limit} are shown; see --limit", err=True)


def _recipients(recipients: list[dict[str, Any]]) -> str:
    shown = [f"{recipient['address']} ({recipient['state']})" for recipient in recipients[:RECIPIENTS_SHOWN]]
    if len(recipients) > RECIPIENTS_SHOWN:
        shown.append(f"and {len(recipients) - RECIPIENTS_SHOWN:,} more")
    return ", ".join(shown)


@queue.command()
@click.argument("message_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def show(client: RelayClient, *, message_id: str, as_json: bool) -> None:
    """One message of the queue: its recipients, its header section, and where its record is."""
    answer = client.get("queue", message_id)
    if as_json:
        click.echo(json.dumps(answer))
        return
    record = answer["record"]
    place = (
        "-" if record is None else ", ".join(f"{name} {value}" for name, value in record.items() if value is not None)
    )
    facts = [
        ("id", answer["id"]),
        ("state", answer["state"].replace("_", " ")),
        ("accepted", answer["received"]),
        ("from", f"<{answer['reverse_path']}>"),
        ("size", octets_text(answer["octets"])),
        ("tenant", answer["tenant"] or "-"),
        ("record", place),
    ]
    show_table(None, facts)
    click.echo()
    rows = [
        (
            recipient["address"],
            recipient["state"].replace("_", " "),
            str(recipient["attempts"]),
            recipient["next_attempt"] or "-",
            recipient["reply"] or "-",
        )
        for recipient in answer["recipients"]
    ]
    show_table(("recipient", "state", "attempts", "next attempt", "last reply"), rows, right=(2,))
    click.echo()
    for line in answer["header"].splitlines():
        click.echo(printable(line.replace("\t", "    ")))


def show_table(head: Iterable[str] | None, rows: Iterable[Iterable[str]], *, right: tuple[int, ...] = ()) -> None:
    """Print a table on standard output, as wide as the terminal; what comes from outside is made printable."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=head is not None, header_style="bold", padding=(0, 2, 0, 0))
    wanted = [tuple(row) for row in rows]
    names = tuple(head) if head is not None else ("",) * max(map(len, wanted), default=0)
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i in right else "left", overflow="fold")
    for row in wanted:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console()
    # a pipe or a file has no width of its own: nothing is folded there
    if not console.is_terminal:
        console = Console(width=100_000)
    console.print(table, soft_wrap=not console.is_terminal)


def octets_text(octets: float) -> str:
    """A size for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if octets < 1024:
            return f"{octets:.0f} {unit}" if unit == "B" or octets >= 10 else f"{octets:.1f} {unit}"
        octets /= 1024
    return f"{octets:,.1f} TiB"


def ago(seconds: float) -> str:
    """A duration for people, to two units: `1h 30m`."""
    whole = math.floor(seconds)
    if whole < 60:
        return format_duration(float(whole))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count}{unit}")
        if len(parts) == 2:
            break
    return " ".join(parts)
