"""`angarium queue`: what the running relay has in its queue, and what is done to it.

The JSON of `--json` is the admin API's, unchanged. Fails: RelayError, exit status 1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from angarium.cli.client import RelayClient, connecting, printable
from angarium.cli.selection import act, conditions, path_of, selecting
from angarium.cli.show import ago, octets_text, recipients_text, show_table, span_text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["queue"]


@click.group()
def queue() -> None:
    """Messages that the relay is responsible for.

    Commands that change something take ids, or conditions that must all hold. They show what they would meet and ask
    first; --yes is for scripts, --dry-run only looks.
    """


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
@conditions
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
    log_in: str | None,
    state: str | None,
    older_than: float | None,
    limit: int,
    as_json: bool,
) -> None:
    """Messages of the queue, the oldest first."""
    answer = client.get(
        "queue",
        to_domain=to_domain,
        from_=path_of(reverse_path),
        tenant=tenant,
        log_in=log_in,
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
            recipients_text(message),
            next((r["reply"] for r in message["recipients"] if r["reply"]), ""),
        )
        for message in answer
    ]
    show_table(("id", "state", "accepted", "size", "from", "recipients", "last reply"), rows, right=(3,))
    if len(answer) == limit:
        click.echo(f"the first {limit} are shown; see --limit", err=True)


def _source(attempt: Mapping[str, Any]) -> str:
    pool = f" of {attempt['pool']}" if attempt["pool"] else ""
    return (attempt["source"] or "-") + pool


@queue.command()
@click.argument("message_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def show(client: RelayClient, *, message_id: str, as_json: bool) -> None:
    """One message of the queue: envelope, attempts, header section, what it waits for, where its record is."""
    answer = client.get("queue", message_id)
    if as_json:
        click.echo(json.dumps(answer))
        return
    record = answer["record"]
    place = (
        "-" if record is None else ", ".join(f"{name} {value}" for name, value in record.items() if value is not None)
    )
    envelope, waits_for = answer["envelope"], answer["waits_for"]
    asked = [f"{name.upper()}={envelope[name]}" for name in ("body", "ret", "envid") if envelope[name]]
    facts = [
        ("id", answer["id"]),
        ("state", answer["state"].replace("_", " ")),
        ("accepted", answer["received"]),
        ("from", f"<{answer['reverse_path']}>"),
        ("size", octets_text(answer["octets"])),
        ("tenant", answer["tenant"] or "-"),
        ("durability", envelope["durability"]),
        ("came by", " ".join(filter(None, (envelope["listener"], envelope["client"], envelope["login"]))) or "-"),
        ("parameters", " ".join(asked) or "-"),
        ("waits for", waits_for["text"] + (f", until {waits_for['until']}" if waits_for["until"] else "")),
        ("waited", ", ".join(f"{cause} {span_text(s)}" for cause, s in answer["waited"].items() if s >= 0.001) or "-"),
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
    if answer["attempts"]:
        click.echo()
        show_table(
            ("attempt", "time", "host", "source", "recipient", "state", "reply"),
            [
                (
                    str(attempt["number"]),
                    attempt["time"] or "-",
                    attempt["host"] or attempt["next_hop"] or "-",
                    _source(attempt),
                    recipient["address"],
                    recipient["state"].replace("_", " "),
                    recipient["reply"] or "-",
                )
                for attempt in answer["attempts"]
                for recipient in attempt["recipients"]
            ],
            right=(0,),
        )
    click.echo()
    for line in answer["header"].splitlines():
        click.echo(printable(line.replace("\t", "    ")))


def _asking(command: Any) -> Any:
    """The options of commands that ask before they act."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--dry-run", is_flag=True, help="Show what would be met, and do nothing."),
        click.option("--yes", is_flag=True, help="Do not ask."),
    ):
        command = option(command)
    return command


_reason = click.option("--reason", metavar="TEXT", help="Why; stands in the event log.")


@queue.command()
@selecting
@_asking
@connecting
def retry(client: RelayClient, *, meant: dict[str, Any], yes: bool, dry_run: bool, as_json: bool) -> None:
    """Try messages as soon as there is room, whatever their schedule. Asks first, unless ids are given."""
    act(client, "retry", meant, yes=yes, dry_run=dry_run, as_json=as_json)


@queue.command()
@selecting
@_reason
@_asking
@connecting
def hold(
    client: RelayClient, *, meant: dict[str, Any], reason: str | None, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Keep messages from delivery until they are released. Asks first, unless ids are given."""
    act(client, "hold", meant, reason=reason, yes=yes, dry_run=dry_run, as_json=as_json)


@queue.command()
@selecting
@_asking
@connecting
def release(client: RelayClient, *, meant: dict[str, Any], yes: bool, dry_run: bool, as_json: bool) -> None:
    """Let held messages go on. Asks first, unless ids are given.

    With --log-in, whoever was found to send unusually much is trusted again: what comes from now on is not held.
    """
    act(client, "release", meant, yes=yes, dry_run=dry_run, as_json=as_json)


@queue.command()
@selecting
@_reason
@_asking
@connecting
def delete(
    client: RelayClient, *, meant: dict[str, Any], reason: str | None, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """End messages without telling anybody. Cannot be undone: see export. Asks first.

    With --to-domain, a message that has recipients elsewhere, too, is left alone.
    """
    act(client, "delete", meant, reason=reason, yes=yes, dry_run=dry_run, as_json=as_json)


@queue.command()
@selecting
@click.option("--reason", metavar="TEXT", help="What the senders are told.")
@_asking
@connecting
def bounce(
    client: RelayClient, *, meant: dict[str, Any], reason: str | None, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """End messages as failed and notify their senders. Cannot be undone. Asks first.

    With --to-domain, only the recipients in that domain fail.
    """
    act(client, "bounce", meant, reason=reason, yes=yes, dry_run=dry_run, as_json=as_json)


@queue.command()
@selecting
@click.option(
    "--to", "folder", required=True, type=click.Path(file_okay=False), help="The folder; it is made if it is not there."
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(("eml", "maildir")),
    default="eml",
    show_default=True,
    help="eml: ID.eml and ID.json (the envelope). maildir: a Maildir, with the envelopes in its folder envelopes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def export(client: RelayClient, *, meant: dict[str, Any], folder: str, layout: str, as_json: bool) -> None:
    """Write messages, with their envelopes, into a folder on this machine. They stay in the queue."""
    from angarium.cli.export import write_export

    report = write_export(client, meant, folder, layout)
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo(f"{report['messages']:,} messages, {octets_text(report['octets'])}, written into {folder}")
    for failure in report["failures"]:
        click.echo(printable(failure), err=True)
    if report["failures"]:
        raise click.exceptions.Exit(1)
