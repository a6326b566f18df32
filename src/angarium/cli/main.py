"""The command `angarium`: one sub-command a module, imported when it is used, and what all of them have in common.

COMMANDS is the list: name, `module:attribute` of its click command, and the line that `angarium --help` shows. The line
stands here so that the help needs no import: a command that lists the queue should not wait for one that serves HTTP.

Exit statuses: 0 success; 1 a failure, explained in one line on standard error (`fail`); 2 wrong usage (click's own).
"""

from __future__ import annotations

import importlib
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

from angarium import __version__

if TYPE_CHECKING:
    from angarium.config.model import Config

__all__ = ["COMMANDS", "DEFAULT_CONFIG", "Failure", "config_option", "fail", "json_option", "main", "open_config"]

DEFAULT_CONFIG = "/etc/angarium/angarium.toml"


class Entry(NamedTuple):
    """Where a command is, and what it does in one line."""

    target: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "serve": Entry("angarium.cli.serve:serve", "Run the relay; --sandbox for one from which nothing leaves."),
    "check": Entry("angarium.cli.check:check", "Validate the configuration."),
    "init": Entry("angarium.cli.init:init", "Write a commented configuration."),
    "doctor": Entry(
        "angarium.cli.doctor.command:doctor", "What of this machine, or of a domain, keeps mail from going."
    ),
    "status": Entry("angarium.cli.status:status", "The running relay at a glance."),
    "reload": Entry("angarium.cli.node:reload", "Have the running relay read its configuration again."),
    "drain": Entry("angarium.cli.node:drain", "Take no more mail, and deliver what is queued."),
    "stop": Entry("angarium.cli.node:stop", "Stop the running relay, and wait until it has ended."),
    "log": Entry("angarium.cli.log:log", "The event log: filtered, followed, in words or as JSON."),
    "trace": Entry("angarium.cli.trace:trace", "The whole story of one message; --live follows sessions."),
    "stream": Entry("angarium.cli.stream:stream", "Events on their way to other systems; dead letters, once more."),
    "queue": Entry("angarium.cli.queue:queue", "Look at the queue; retry, hold, delete, bounce, export messages."),
    "suspend": Entry("angarium.cli.suspend:suspend", "Stop delivery by domain, site, source or tenant, for a time."),
    "resume": Entry("angarium.cli.suspend:resume", "Start it again."),
    "user": Entry("angarium.cli.user:user", "Log-ins: add, remove, list; who is banned for guessing."),
    "tls-report": Entry("angarium.cli.tls_report:tls_report", "How TLS to mail hosts went, as it is reported to them."),
    "explain": Entry("angarium.cli.explain:explain", "Where mail to an address would go, and what would block it."),
    "send": Entry("angarium.cli.send:send", "Submit a message."),
    "demo": Entry("angarium.cli.demo.command:demo", "A sandbox with mail, deferrals and bounces to look at."),
    "bench": Entry("angarium.cli.bench:bench", "Measure a relay: generator, relay and sink in one."),
}


class Failure(click.ClickException):
    """Ends the command with status 1 and this line."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"angarium: {self.format_message()}", file=file, err=file is None)


def fail(message: str) -> NoReturn:
    """End the command with status 1 and this line."""
    raise Failure(message)


# The parameter is None when neither the option nor the variable is set: `config or DEFAULT_CONFIG`.
config_option = click.option(
    "--config",
    metavar="FILE",
    envvar="ANGARIUM_CONFIG",
    help=f"The configuration; ANGARIUM_CONFIG, else {DEFAULT_CONFIG}.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def open_config(config: str | None, *, sandbox: bool = False) -> Config:
    """The configuration for a command that needs one; the failure names the first problem and the way to the others."""
    from angarium.config.load import ConfigErrors, load_config

    try:
        return load_config(config or DEFAULT_CONFIG, sandbox=sandbox)
    except ConfigErrors as errors:
        first, *others = [problem for problem in errors.problems if problem.severity == "error"]
        fail(f'{first}; {len(others)} more, see "angarium check"' if others else str(first))


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


if __name__ == "__main__":
    main()
