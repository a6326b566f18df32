"""`angarium user`: the log-ins of a credentials file, and the bans of the running relay.

A password is asked for at the terminal, read from standard input (`--password-stdin`), or made (`--generate`, shown
once); it is never an argument, which every user of the machine could see. The file is that of the first
`kind = "file"` of the configuration, or `--file`. The relay reads it again by itself.

Fails: exit status 1 and one line: no such file in the configuration, a log-in that is there already or is not, a
password that will not do, a folder that cannot be written."""

from __future__ import annotations

import grp
import json
import os
import pwd
import secrets
import sys
from typing import TYPE_CHECKING

import click

from angarium.cli.client import RelayClient, connecting
from angarium.cli.main import DEFAULT_CONFIG, config_option, fail, json_option, open_config
from angarium.cli.show import ago, show_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    from angarium.policy.credentials_file import Entry

    F = TypeVar("F", bound="Callable[..., Any]")

__all__ = ["user"]

GENERATED_OCTETS = 18  # 24 characters
LONGEST_LINE = 4096

_file_option = click.option(
    "--file",
    "file",
    type=click.Path(dir_okay=False),
    help='The credentials file; that of the configuration\'s first kind = "file" if none is given.',
)


def _password_options(command: F) -> F:
    for option in reversed(
        (
            click.option(
                "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
            ),
            click.option("--generate", is_flag=True, help="Make a password and print it, once."),
            click.option(
                "--no-scram",
                is_flag=True,
                help="Keep no SCRAM verifier: argon2id alone guards a stolen file; no SCRAM.",
            ),
        )
    ):
        command = option(command)
    return command


@click.group()
def user() -> None:
    """Log-ins: who may send mail through this relay with a password, and who is banned for guessing."""


@user.command()
@click.argument("log_in", metavar="LOG-IN")
@_password_options
@_file_option
@config_option
def add(
    log_in: str, *, password_stdin: bool, generate: bool, no_scram: bool, file: str | None, config: str | None
) -> None:
    """Add a log-in. Its password is asked for."""
    path, group = _place(file, config)
    password = _password(password_stdin=password_stdin, generate=generate)
    _change(path, log_in, password, scram=not no_scram, there=False, group=group)
    _say_done(f"{log_in} added to {path}", password if generate else None)


@user.command()
@click.argument("log_in", metavar="LOG-IN")
@_password_options
@_file_option
@config_option
def password(
    log_in: str, *, password_stdin: bool, generate: bool, no_scram: bool, file: str | None, config: str | None
) -> None:
    """Give a log-in another password. The old one stops at once."""
    path = _path(file, config)
    new = _password(password_stdin=password_stdin, generate=generate)
    _change(path, log_in, new, scram=not no_scram, there=True)
    _say_done(f"{log_in} of {path} has another password", new if generate else None)


@user.command()
@click.argument("log_in", metavar="LOG-IN")
@_file_option
@config_option
def remove(log_in: str, *, file: str | None, config: str | None) -> None:
    """Remove a log-in. Sessions that it has opened go on until they end."""
    from angarium.policy.credentials_file import editing

    path = _path(file, config)
    try:
        with editing(path) as entries:
            if entries.pop(_as_it_stands(entries, log_in), None) is None:
                fail(f"there is no log-in {log_in} in {path}")
    except (OSError, ValueError) as failure:
        fail(_why(path, failure))
    click.echo(f"{log_in} removed from {path}")


@user.command(name="list")
@_file_option
@json_option
@config_option
def list_(*, file: str | None, as_json: bool, config: str | None) -> None:
    """The log-ins of the file, and whether SCRAM is for them."""
    from angarium.policy.credentials_file import read_credentials

    path = _path(file, config)
    try:
        entries = read_credentials(path).entries
    except FileNotFoundError:
        entries = {}
    except (OSError, ValueError) as failure:
        fail(_why(path, failure))
    if as_json:
        click.echo(
            json.dumps([{"log_in": log_in, "scram": entries[log_in].scram is not None} for log_in in sorted(entries)])
        )
        return
    if not entries:
        click.echo(f"no log-ins in {path}")
        return
    show_table(("log-in", "scram"), [(name, "yes" if entries[name].scram else "no") for name in sorted(entries)])


@user.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def bans(client: RelayClient, *, as_json: bool) -> None:
    """Clients and log-ins of the running relay that are banned from AUTH, because too many log-ins failed."""
    found = client.get("bans")
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found:
        click.echo("nobody is banned")
        return
    rows = [(ban["of"].replace("_", "-"), ban["subject"], str(ban["failures"]), ago(ban["left_s"])) for ban in found]
    show_table(("banned", "", "failures", "for another"), rows, right=(2, 3))


@user.command()
@click.argument("subject", metavar="ADDRESS|LOG-IN", required=False)
@click.option("--all", "everyone", is_flag=True, help="Every ban there is.")
@connecting
def unban(client: RelayClient, *, subject: str | None, everyone: bool) -> None:
    """Lift a ban, and forget the failures that led to it."""
    if (subject is None) == (not everyone):
        raise click.UsageError("Name an address or a log-in, or give --all. See also: angarium user bans")
    lifted = client.delete("bans", subject="*" if everyone else subject)["lifted"]
    click.echo(f"{lifted} ban{'' if lifted == 1 else 's'} lifted")


def _path(file: str | None, config: str | None) -> str:
    return _place(file, config)[0]


def _place(file: str | None, config: str | None) -> tuple[str, int | None]:
    """The credentials file, and the group that the relay runs as, where root is about to make it."""
    if file is not None:
        return file, None
    settings = open_config(config)
    files = [one.file for one in settings.credentials if one.kind == "file" and one.file is not None]
    if not files:
        fail(f'{config or DEFAULT_CONFIG} has no [[credentials]] with kind = "file"; name one with --file')
    node = settings.node
    if os.geteuid() != 0 or node.user is None:
        return files[0], None
    return files[0], grp.getgrnam(node.group).gr_gid if node.group else pwd.getpwnam(node.user).pw_gid


def _password(*, password_stdin: bool, generate: bool) -> str:
    if password_stdin and generate:
        raise click.UsageError("--password-stdin and --generate: one of the two.")
    if generate:
        return secrets.token_urlsafe(GENERATED_OCTETS)
    if password_stdin:
        octets = sys.stdin.buffer.readline(LONGEST_LINE)
        try:
            return octets.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            fail("the password is not UTF-8")
    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask at: give --password-stdin or --generate.")
    asked: str = click.prompt("Password", hide_input=True, confirmation_prompt="Once more")
    return asked


def _change(path: str, log_in: str, password: str, *, scram: bool, there: bool, group: int | None = None) -> None:
    from angarium.policy.credentials_file import check_log_in, editing, make_entry

    try:
        check_log_in(log_in)
        entry = make_entry(password, scram=scram)
        with editing(path, group=group) as entries:
            log_in = _as_it_stands(entries, log_in)
            if there and log_in not in entries:
                fail(f"there is no log-in {log_in} in {path}; angarium user add makes one")
            if not there and log_in in entries:
                fail(f"{log_in} is in {path} already; angarium user password gives it another password")
            entries[log_in] = entry
    except (OSError, ValueError) as failure:
        fail(_why(path, failure))


def _as_it_stands(entries: Mapping[str, Entry], log_in: str) -> str:
    """How the file writes the log-in, if it is there."""
    from angarium.mail.log_in import fold_log_in

    return next((name for name in entries if fold_log_in(name) == fold_log_in(log_in)), log_in)


def _why(path: str, failure: OSError | ValueError) -> str:
    return f"{path}: {failure.strerror}" if isinstance(failure, OSError) else str(failure)


def _say_done(what: str, made: str | None) -> None:
    click.echo(what, err=made is not None)
    if made is not None:
        click.echo(made)
