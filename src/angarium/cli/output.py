"""What all commands have in common: their options, their exit statuses, how they report a failure.

Exit statuses: 0 success; 1 a failure, explained in one line on standard error (`Failure`); 2 wrong usage (click's own).
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from angarium.config.model import Config

__all__ = ["DEFAULT_CONFIG", "Failure", "config_option", "json_option", "open_config", "print_json"]

DEFAULT_CONFIG = "/etc/angarium/angarium.toml"


class Failure(click.ClickException):
    """Ends the command with status 1 and this line."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"angarium: {self.format_message()}", file=file, err=file is None)


config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    envvar="ANGARIUM_CONFIG",
    default=DEFAULT_CONFIG,
    show_default=True,
    show_envvar=True,
    help="The configuration.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def open_config(config_file: str, *, sandbox: bool = False) -> Config:
    """The configuration for a command that needs one; a Failure tells the first problem, and how to see the others."""
    from angarium.config.load import ConfigErrors, load_config

    try:
        return load_config(config_file, sandbox=sandbox)
    except ConfigErrors as errors:
        first, *others = [problem for problem in errors.problems if problem.severity == "error"]
        more = f'; {len(others)} more, see "angarium check"' if others else ""
        raise Failure(f"{first}{more}") from None


def print_json(value: object) -> None:
    """One JSON document, indented for people."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
