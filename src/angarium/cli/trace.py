"""`angarium trace ID`: the whole story of one message. `angarium trace --live`: sessions as they happen.

The JSON of `--json` is the admin API's, unchanged; live, a line each. Fails: RelayError, exit status 1.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from angarium.cli.client import RelayClient, RelayError, connecting, printable
from angarium.cli.show import show_table, span_text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["trace"]

QUIET_S = 10.0  # so long without a line, and it is said that nothing is
TELL_S = 5.0  # what was dropped is told so often
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
    conditions = {"client": network, "from": sender, "to_domain": to_domain, "site": site}
    given = {name: value for name, value in conditions.items() if value}
    if live:
        if message_id is not None:
            raise click.UsageError("--live follows sessions: it takes conditions, no ID")
        if network and site:
            raise click.UsageError("nothing is both from a client and to a site: --client is of what comes in")
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
        (
            "took" if story["waits_for"] is None else "age",
            "-" if story["seconds"] is None else span_text(story["seconds"]),
        ),
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


class _Notes:
    """What is said on standard error beside the lines: once each, and of what goes on now and then."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._dropped: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._told = 0  # lines that were dropped
        self._told_at = self._shown_at = time.monotonic()
        self._is_quiet = False

    def hear(self, said: Mapping[str, Any]) -> None:
        """A line of the relay."""
        now = time.monotonic()
        for name in ("error", "note"):
            if name in said and said[name] not in self._said:
                self._said.add(said[name])
                self._say(said[name])
        if "beat" in said:
            self._dropped[said["worker"]] = said["dropped"]
            self._seen[said["worker"]] = said["seen"]
        if "who" in said:
            self._shown_at, self._is_quiet = now, False
        elif now - self._shown_at >= QUIET_S and not self._is_quiet:
            self._is_quiet = True
            self._say(
                f"nothing of what is asked for was said for {QUIET_S:.0f} s; {sum(self._seen.values())} lines went by"
            )
        if now - self._told_at >= TELL_S:
            self.tell_dropped()

    def tell_dropped(self) -> None:
        """How many lines are missing, when that is news."""
        dropped = sum(self._dropped.values())
        if dropped > self._told:
            self._told, self._told_at = dropped, time.monotonic()
            self._say(f"{dropped} lines were dropped so far, to slow no mail: ask for less, by conditions")

    def _say(self, text: str) -> None:
        click.echo(f"note: {printable(text)}", err=True)


def _follow(client: RelayClient, conditions: Mapping[str, str], as_json: bool) -> None:
    notes = _Notes()
    try:
        with client.follow("trace", "live", **conditions) as answer:
            while line := answer.readline(1 << 20):
                try:
                    said = json.loads(line)
                except ValueError:
                    raise RelayError("the relay ended in the middle of a line") from None
                if "who" in said and not as_json:
                    _show_line(said)
                elif "who" in said or ("error" in said and as_json):
                    sys.stdout.write(line.decode("utf-8"))
                    sys.stdout.flush()
                notes.hear(said)
    finally:
        notes.tell_dropped()


def _show_line(said: Mapping[str, Any]) -> None:
    head = f"{said['time'][11:23]} {said['side']:<3} {said['session']} {printable(said['peer'])}"
    text = said["text"] or _ENDS.get(said["who"], "")
    for line in text.splitlines():
        click.echo(f"{head} {said['who']}: {printable(line)}")
    sys.stdout.flush()
