"""Which messages a command is for, and what is asked before anything happens to them.

`selecting` gives a command the arguments that name messages: ids, or conditions, or --all. Naming none is wrong usage,
so that nobody means all of them by leaving something out.

`act` shows what would be met and asks, hands the action to the relay, and follows it to its end. Exit statuses: 0 when
it was done (or nothing matched), 1 when something failed or was not answered with yes, 2 for wrong usage, and for a
question that nobody is there to answer.
"""

from __future__ import annotations

import functools
import getpass
import json
import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from angarium.cli.client import printable
from angarium.cli.show import octets_text, recipients_text, show_table
from angarium.config.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.cli.client import RelayClient

__all__ = ["STATES", "DurationType", "act", "operator", "selecting"]

STATES = ("ready", "scheduled", "held", "suspended", "in_doubt")
LIMIT_MAX = 100_000
FOLLOW_S = 2.0

F = TypeVar("F", bound="Callable[..., Any]")

_PAST = {"hold": "held", "release": "released", "retry": "retried", "delete": "deleted", "bounce": "bounced"}
_LEFT = (
    ("under_way", "were being delivered and were left alone"),
    ("unchanged", "were so already, or had ended"),
    ("others", "have recipients elsewhere, too, and were left alone (bounce acts on recipients; or name their ids)"),
    ("failed", "failed"),
)


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


class StateType(click.Choice[str]):
    """A state, with hyphens or underscores."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The state as the API names it."""
        return super().convert(str(value).replace("-", "_"), param, ctx)


def conditions(command: F) -> F:
    """The options that say which messages are meant."""
    for option in reversed(
        (
            click.option("--to-domain", metavar="DOMAIN", help="Messages that wait for a recipient in this domain."),
            click.option(
                "--from",
                "reverse_path",
                metavar="ADDRESS",
                help="Messages with this reverse path; @DOMAIN; <> for none.",
            ),
            click.option("--tenant", metavar="TENANT", help="Messages of this tenant."),
            click.option("--log-in", metavar="NAME", help="Messages of who logged in by this name."),
            click.option("--state", type=StateType(STATES), help="Messages in this state."),
            click.option(
                "--older-than", type=DurationType(), metavar="DURATION", help="Accepted longer ago, as in 90s, 10m, 4h."
            ),
        )
    ):
        command = option(command)
    return command


def selecting(command: F) -> F:
    """Give a click command ids and conditions, and hand it `meant`: the part of a request that names messages."""

    @click.argument("ids", metavar="[ID]...", nargs=-1)
    @conditions
    @click.option("--limit", type=click.IntRange(1, LIMIT_MAX), help="At most so many, the oldest first.")
    @click.option("--all", "everything", is_flag=True, help="All messages of the queue.")
    @functools.wraps(command)
    def with_meant(
        *args: Any,
        ids: tuple[str, ...],
        to_domain: str | None,
        reverse_path: str | None,
        tenant: str | None,
        log_in: str | None,
        state: str | None,
        older_than: float | None,
        limit: int | None,
        everything: bool,
        **kwargs: Any,
    ) -> Any:
        wanted = {
            "to_domain": to_domain,
            "from": path_of(reverse_path),
            "tenant": tenant,
            "log_in": log_in,
            "state": state,
            "older_than_s": older_than,
        }
        meant: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        if ids and (meant or everything or limit is not None):
            raise click.UsageError("Name messages by their ids or by conditions, not both.")
        if ids:
            meant = {"ids": list(ids)}
        elif not meant and not everything:
            raise click.UsageError("No message is named. Give ids or conditions, or --all for the whole queue.")
        if everything:
            meant["all"] = True
        if limit is not None:
            meant["limit"] = limit
        return command(*args, meant=meant, **kwargs)

    return with_meant  # type: ignore[return-value]


def path_of(text: str | None) -> str | None:
    """A reverse path without its brackets; `<>` is the null reverse-path."""
    return text[1:-1] if text is not None and text.startswith("<") and text.endswith(">") else text


def is_interactive() -> bool:
    """Whether somebody is there to answer a question."""
    return sys.stdin.isatty()


def operator() -> str:
    """Who acts: who called sudo, or the user."""
    try:
        return (os.environ.get("SUDO_USER") or getpass.getuser())[:100]
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def act(
    client: RelayClient,
    action: str,
    meant: dict[str, Any],
    *,
    reason: str | None = None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Preview, question, action, report."""
    is_final = action in ("delete", "bounce")
    if dry_run:
        preview = client.post("queue", action, body={**meant, "dry_run": True})
        if as_json:
            click.echo(json.dumps(preview))
        else:
            show_preview(action, preview, err=False)
        return
    if (is_final or "ids" not in meant) and not yes:
        if not is_interactive():
            raise click.UsageError(
                f"{action} asks before it acts, and there is no terminal to ask on. Give --yes, or --dry-run to look."
            )
        preview = client.post("queue", action, body={**meant, "dry_run": True})
        if not preview["messages"]:
            click.echo("no messages match", err=True)
            if as_json:
                click.echo(json.dumps(None))
            return
        show_preview(action, preview, err=True)
        if not click.confirm(f"{action.capitalize()} these {preview['messages']:,} messages?", err=True):
            click.echo("nothing was done", err=True)
            raise click.exceptions.Exit(1)
        if "ids" not in meant:
            meant = {**meant, "before": preview["before"]}
    body = {**meant, "by": operator(), "wait_s": FOLLOW_S}
    if reason is not None:
        body["reason"] = reason
    operation = follow(client, client.post("queue", action, body=body))
    report(action, operation, meant, as_json=as_json)


def follow(client: RelayClient, operation: dict[str, Any]) -> dict[str, Any]:
    """Ask until the operation has ended. An interrupt (^C) cancels it."""
    try:
        while operation["state"] == "running":
            if sys.stderr.isatty():
                click.echo(f"\r{operation['done']:,} of {operation['selected']:,} so far ", nl=False, err=True)
            operation = client.get("operations", operation["id"], wait_s=FOLLOW_S)
    except KeyboardInterrupt:
        operation = client.delete("operations", operation["id"])
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    return operation


def report(action: str, operation: dict[str, Any], meant: dict[str, Any], *, as_json: bool) -> None:
    """What has been done, and the exit status for it."""
    if as_json:
        click.echo(json.dumps(operation))
    else:
        click.echo(f"{_PAST[action]} {_messages(operation['done'])}")
        for name, text in _LEFT:
            if operation[name]:
                click.echo(f"  {operation[name]:,} {text}")
    for error in operation["errors"]:
        click.echo(printable(error), err=True)
    unknown = len(meant.get("ids", ())) - operation["selected"]
    if unknown > 0:
        click.echo(f"{unknown:,} of the messages named are not in the queue", err=True)
    if operation["state"] == "cancelled":
        click.echo("cancelled", err=True)
    if operation["state"] != "done" or operation["failed"] or unknown > 0:
        raise click.exceptions.Exit(1)


def show_preview(action: str, preview: dict[str, Any], *, err: bool) -> None:
    """What an action would meet."""
    oldest = f", the oldest of {preview['oldest']}" if preview["oldest"] else ""
    click.echo(
        f"{action} would meet {_messages(preview['messages'])} for {preview['recipients']:,} recipients,"
        f" {octets_text(preview['octets'])}{oldest}",
        err=err,
    )
    if preview["under_way"]:
        click.echo(f"{preview['under_way']:,} of them are being delivered at this moment and are left alone", err=err)
    rows = [
        (sample["id"], sample["state"].replace("_", " "), f"<{sample['reverse_path']}>", recipients_text(sample))
        for sample in preview["samples"]
    ]
    if rows:
        show_table(("id", "state", "from", "recipients"), rows, err=err)
    if preview["messages"] > len(rows) > 0:
        click.echo(f"and {preview['messages'] - len(rows):,} more", err=err)


def _messages(count: int) -> str:
    return f"{count:,} message" if count == 1 else f"{count:,} messages"
