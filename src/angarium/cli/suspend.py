"""`angarium suspend` and `angarium resume`: stop and start delivery by domain, site, source or tenant.

The JSON of `--json` is the admin API's. Fails: RelayError, exit status 1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import click

from angarium.cli.client import RelayClient, connecting
from angarium.cli.selection import DurationType, operator
from angarium.cli.show import show_table

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["resume", "suspend"]

KINDS = ("domain", "site", "source", "tenant")
DAY_S = 86400.0
LONGEST_S = 366 * DAY_S

F = TypeVar("F", bound="Callable[..., Any]")

_HELP = {
    "domain": "Mail to recipients in this domain.",
    "site": "Mail to these mail hosts, as the event log names the site.",
    "source": "Mail that leaves by this source; default: by an address of the system's choice.",
    "tenant": "Mail of this tenant.",
}


def targets(command: F) -> F:
    """The options that say what is suspended; each may be given several times."""
    for kind in reversed(KINDS):
        command = click.option(f"--{kind}", multiple=True, metavar=kind.upper(), help=_HELP[kind])(command)
    return command


def _named(given: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(kind, name) for kind in KINDS for name in given[kind]]


@click.group(invoke_without_command=True)
@targets
@click.option("--reason", metavar="TEXT", help="Why; it is shown to whoever asks what mail waits for.")
@click.option(
    "--for",
    "for_s",
    type=DurationType(),
    metavar="DURATION",
    default="1d",
    show_default=True,
    help="It ends by itself.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
@click.pass_context
def suspend(
    context: click.Context, /, client: RelayClient, *, reason: str | None, for_s: float, as_json: bool, **given: Any
) -> None:
    """Stop delivery by domain, site, source or tenant, for a time. Mail stays queued; new mail is accepted."""
    if context.invoked_subcommand is not None:
        return
    named = _named(given)
    if not named:
        raise click.UsageError("Name a --domain, --site, --source or --tenant. See also: angarium suspend list")
    if not reason:
        raise click.UsageError("A --reason is needed: others will ask why mail stands still.")
    if not 1 <= for_s <= LONGEST_S:
        raise click.BadParameter("a suspension takes between 1s and 366d", param_hint="--for")
    made = [
        client.post(
            "suspensions", body={"kind": kind, "name": name, "reason": reason, "for_s": for_s, "by": operator()}
        )
        for kind, name in named
    ]
    if as_json:
        click.echo(json.dumps(made))
        return
    for suspension in made:
        click.echo(f"{suspension['kind']} {suspension['name']} is suspended until {suspension['until']}")


@suspend.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def list_(client: RelayClient, *, as_json: bool) -> None:
    """What is suspended now: by whom, why, until when."""
    answer = client.get("suspensions")
    if as_json:
        click.echo(json.dumps(answer))
    elif not answer:
        click.echo("nothing is suspended")
    else:
        head = ("kind", "name", "since", "until", "by", "reason")
        show_table(head, [tuple(suspension[name] or "-" for name in head) for suspension in answer])


@click.command()
@targets
@click.option("--all", "everything", is_flag=True, help="End all suspensions.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def resume(client: RelayClient, *, everything: bool, as_json: bool, **given: Any) -> None:
    """Start delivery again."""
    named = _named(given)
    if bool(named) == everything:
        raise click.UsageError("Name a --domain, --site, --source or --tenant, or give --all.")
    if everything:
        named = [(suspension["kind"], suspension["name"]) for suspension in client.get("suspensions")]
    ended = [client.delete("suspensions", kind=kind, name=name) for kind, name in named]
    if as_json:
        click.echo(json.dumps(ended))
        return
    for suspension in ended:
        click.echo(f"{suspension['kind']} {suspension['name']} is resumed")
    if not ended:
        click.echo("nothing is suspended")
