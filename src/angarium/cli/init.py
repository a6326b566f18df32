"""`angarium init`: a commented configuration to start from, for one of three roles.

Writes to standard output, or to a file with -o, which it does not overwrite without --force. What is written is
accepted by `angarium check` as it is; what needs a decision or a file of the reader's stands in comments.
"""

from __future__ import annotations

import importlib.resources
import os
import socket
from pathlib import Path

import click

from angarium.cli.main import fail

__all__ = ["ROLES", "compose", "init"]

ROLES = ("bulk", "smarthost", "sandbox")


def compose(role: str, hostname: str, spool: str) -> str:
    """The text of the configuration."""
    template = importlib.resources.files("angarium.cli") / "templates" / f"{role}.toml"
    return template.read_text("utf-8").replace("@HOSTNAME@", hostname).replace("@SPOOL@", spool)


def _default_hostname() -> str:
    """The machine's name if it is fully qualified; looking one up would ask the network."""
    name = socket.gethostname().lower()
    return name if "." in name.strip(".") else "relay.example.org"


@click.command(short_help="Write a commented configuration.")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What the relay is for.")
@click.option("-o", "--output", "output", metavar="FILE", help="Write to FILE instead of standard output.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option("--hostname", metavar="NAME", help="The relay's name; else this machine's if it is fully qualified.")
@click.option("--spool", metavar="FOLDER", help="Where the queue is kept.")
def init(role: str, output: str | None, force: bool, hostname: str | None, spool: str | None) -> None:
    """Write a commented configuration.

    \b
    bulk        sends for applications, in large numbers, by MX
    smarthost   takes what an organisation's machines send, and passes it on
    sandbox     nothing leaves the machine: for development and tests
    """
    if spool is None:
        spool = "angarium-sandbox" if role == "sandbox" else "/var/spool/angarium"
    if hostname is None:
        hostname = "sandbox.test" if role == "sandbox" else _default_hostname()
    text = compose(role, _checked(hostname, "--hostname"), _checked(os.path.abspath(spool), "--spool"))
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with Path(output).open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        fail(f"{output} exists; --force overwrites it")
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}")
    click.echo(f'{output} written; next: angarium check --config "{output}"', err=True)


def _checked(value: str, option: str) -> str:
    """Refuse what would not survive between the quotes of a TOML string."""
    if any(character in value for character in '"\\') or not value.isprintable():
        raise click.BadParameter(f"{value!r} has a character that cannot stand here", param_hint=option)
    return value
