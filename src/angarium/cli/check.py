"""`angarium check`: every problem of the configuration, each with file, line, column and key.

Prints one line a problem, or with --json one document: `{"file", "valid", "problems": [{"file", "line", "column",
"key", "message", "suggestion", "severity"}]}`. Exits 1 when a problem is an error; warnings alone are a success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from angarium.cli.main import DEFAULT_CONFIG, config_option, json_option

if TYPE_CHECKING:
    from angarium.config.model import Config

__all__ = ["check"]


@click.command(short_help="Validate the configuration.")
@config_option
@click.option("--sandbox", is_flag=True, help="Check it as a sandbox: nothing may leave the machine.")
@json_option
@click.pass_context
def check(ctx: click.Context, config: str | None, sandbox: bool, as_json: bool) -> None:
    """Validate the configuration.

    Prints every problem as FILE:LINE:COLUMN: KEY: MESSAGE, with the nearest valid name. Exits 0 when the configuration
    can be used, 1 when it cannot.
    """
    import msgspec

    from angarium.config.load import examine

    file = config or DEFAULT_CONFIG
    examination = examine(file, sandbox=sandbox)
    usable = examination.config
    if as_json:
        document = {"file": file, "valid": usable is not None, "problems": examination.problems}
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
    else:
        for problem in examination.problems:
            click.echo(str(problem))
        if usable is not None:
            click.echo(f"{file}: {summary(usable)}")
    if usable is None:
        ctx.exit(1)


def summary(config: Config) -> str:
    """What the configuration comes to on this machine, in one line."""
    from angarium.config.resolve import memory_budget_octets, shard_count, worker_count

    listeners = ", ".join(f"{listener.name} on {listener.listen}" for listener in config.listener)
    budget = memory_budget_octets(config) // 10**6
    return (
        f"valid{' (sandbox)' if config.sandbox else ''}: {config.node.hostname}: {listeners}; "
        f"{_count(len(config.route), 'route')}, {_count(worker_count(config), 'worker')}, "
        f"{_count(shard_count(config), 'shard')}, durability {config.queue.durability}, {budget} MB for mail in memory"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
