"""`angarium trace ID`: the whole story of one message. `angarium trace --live`: sessions as they happen.

The JSON of `--json` is the admin API's, unchanged; live, a line each. Fails: RelayError, exit status 1.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from angarium.cli.client import RelayClient, RelayError, connecting, printable
from angarium.cli.selection import path_of
from angarium.cli.show import show_table, span_text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["trace"]

_ENDS = {"-": "the connection has ended", "+": "a connection", "!": "no connection"}


@click.command()
@click.argument("message_id", metavar="[ID]", required=False)
@click.option("--live", is_flag=True, help="Follow sessions, in and out, until interrupted.")
@click.option("--client", "network", metavar="NETWORK", help="Live: sessions from these addresses.")
@click.option("--from", "sender", metavar="ADDRESS", help="Live: transactions with this reverse path; @DOMAIN.")
@click.option("--to-domain", metavar="DOMAIN", help="Live: transactions with a recipient there.")
@click.option("--site", metavar="SITE", help="Live: sessions to this site.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; live, a line each.")
@connecting
def trace(
    client: RelayClient,
    *,
    message_id: str | None,
    live: bool,
    network: str | None,
    sender: str | None,
    to_domain: str | None,
    site: str | None,
    as_json: bool,
) -> None:
    """The story of the message ID: reception, policy, waits by cause, attempts with what was said, result.

    With --live, what clients and next hops say as they say it. Watching slows no mail: what is too much is dropped, and
    counted. Log-ins' secrets and mail data are never shown.
    """
    conditions = {"client": network, "from": path_of(sender), "to_domain": to_domain, "site": site}
    given = {name: value for name, value in conditions.items() if value}
    if live:
        if message_id is not None:
            raise click.UsageError("--live follows sessions: it takes conditions, no ID")
        with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
            _follow(client, given, as_json)
        return
    if message_id is None:
        raise click.UsageError("an ID is missing, or --live")
    if given:
        raise click.UsageError("conditions are for --live")
    answer = client.get("messages", message_id, "trace")
    if as_json:
        click.echo(json.dumps(answer))
    else:
        _show(answer)


# ---------------------------------------------------------------------- one message


def _show(story: dict[str, Any]) -> None:
    facts = [
        ("id", story["id"]),
        ("state", story["state"].replace("_", " ")),
        ("from", "-" if story["reverse_path"] is None else f"<{story['reverse_path']}>"),
        ("accepted", story["accepted"] or "-"),
        ("took" if story["waits_for"] is None else "age", "-" if story["seconds"] is None else span_text(story["seconds"])),
        ("waited", ", ".join(f"{cause} {span_text(seconds)}" for cause, seconds in story["waited_s"].items()) or "-"),
    ]
    waits_for = story["waits_for"]
    if waits_for is not None:
        until = f", until {waits_for['until']}" if waits_for["until"] else ""
        facts.append(("waits for", waits_for["text"] + until))
    show_table(None, facts)
    click.echo()
    rows = [(result["recipient"], result["result"], result["reply"] or "-") for result in story["recipients"]]
    if rows:
        show_table(("recipient", "result", "last reply"), rows)
        click.echo()
    for step in story["steps"]:
        _show_step(step)
    for remark in story["remarks"]:
        click.echo(f"note: {printable(remark)}", err=True)


def _show_step(step: Mapping[str, Any]) -> None:
    seconds = f"  [{span_text(step['seconds'])}]" if step["seconds"] is not None else ""
    click.echo(f"{step['time']}  {printable(step['text'])}{seconds}")
    for result in step["results"]:
        click.echo(f"    <{printable(result['recipient'])}> {result['result']}: {printable(result['reply'] or '-')}")
    for dialogue in step["dialogues"]:
        tls = dialogue["tls"]
        how = f", {tls['version']} {tls['cipher']}, {tls['authentication']}" if tls else ""
        click.echo(f"    {printable(dialogue['host'])}, transaction {dialogue['transaction']}{how}")
        for line in dialogue["lines"]:
            at = "" if line["at_s"] is None else f"{line['at_s']:.3f}"
            for text in line["text"].split("\n"):
                click.echo(f"    {at:>9} {line['who']}: {printable(text)}")


# ---------------------------------------------------------------------- live


def _follow(client: RelayClient, conditions: Mapping[str, str], as_json: bool) -> None:
    dropped: dict[int, int] = {}
    with client.follow("trace", "live", **conditions) as answer:
        while line := answer.readline(1 << 20):
            try:
                said = json.loads(line)
            except ValueError:
                raise RelayError("the relay ended in the middle of a line") from None
            if as_json:
                if "beat" not in said:
                    sys.stdout.write(line.decode("utf-8"))
                    sys.stdout.flush()
            elif "who" in said:
                _show_line(said)
            if "error" in said:
                click.echo(f"note: {printable(said['error'])}", err=True)
            if said.get("dropped", 0) > dropped.get(said.get("worker", 0), 0):
                dropped[said.get("worker", 0)] = said["dropped"]
                click.echo(f"note: {sum(dropped.values())} lines were dropped so far, to slow no mail", err=True)


def _show_line(said: Mapping[str, Any]) -> None:
    head = f"{said['time'][11:23]} {said['side']:<3} {said['session']} {printable(said['peer'])}"
    text = said["text"] or _ENDS.get(said["who"], "")
    for line in text.splitlines():
        click.echo(f"{head} {said['who']}: {printable(line)}")
    sys.stdout.flush()
