"""The command `angarium`: one sub-command a module, imported when it is used.

COMMANDS is the list: name, `module:attribute` of its click command, and the line that `angarium --help` shows. The line
stands here so that the help needs no import: a command that lists the queue should not wait for one that serves HTTP.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

import click

from angarium import __version__

__all__ = ["COMMANDS", "main"]


class Entry(NamedTuple):
    """Where a command is, and what it does in one line."""

    target: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "check": Entry("angarium.cli.check:check", "Validate the configuration."),
    "init": Entry("angarium.cli.init:init", "Write a commented configuration."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.target} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="angarium", message="%(prog)s %(version)s")
def cli() -> None:
    """Angarium, an SMTP relay.

    Every command takes --help, and exits 0 on success, 1 on a failure, 2 on wrong usage.
    """


def main() -> None:
    """The entry point."""
    cli(prog_name="angarium")
