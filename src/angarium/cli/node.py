"""`angarium reload`, `drain`, `stop`: the running node takes another configuration, takes no mail, ends.

They reach the node by the supervisor's Unix socket in its spool, which only root and the node's own user may use; the
spool is the configuration's, or `--spool`, or the sandbox's.

Fails: no node there, no right to ask it, a configuration that was refused (each of its errors on a line, as `angarium
check` has them), no answer in time: exit status 1.
"""

from __future__ import annotations

import json
import os
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from angarium.cli.client import printable
from angarium.cli.main import DEFAULT_CONFIG, config_option, fail, json_option

if TYPE_CHECKING:
    from angarium.app.node_socket import Request

__all__ = ["drain", "reload", "stop"]

SANDBOX_SPOOL = Path(".sandbox")
RELOAD_S = 180.0
ANSWER_S = 10.0
STOP_S = 90.0
LOOK_S = 0.2

spool_option = click.option(
    "--spool",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help=f"The node's spool; the configuration's, or {SANDBOX_SPOOL} when there is no configuration.",
)


@click.command(short_help="Have the running relay read its configuration again.")
@config_option
@spool_option
@json_option
def reload(config: str | None, spool: Path | None, as_json: bool) -> None:
    """Have the running relay read its configuration again.

    It changes while it serves: no session is lost, and a transaction that is under way ends under the terms that it
    began with. Prints the keys that have changed, and those that wait for a restart. When the file has an error the old
    configuration stays: every error is printed as FILE:LINE:COLUMN: KEY: MESSAGE, and the exit status is 1.
    """
    from angarium.app.node_socket import Request

    answer = _ask(_spool(config, spool), Request("reload"), RELOAD_S)
    result = answer.get("result")
    if as_json:
        click.echo(json.dumps(result if result is not None else {"applied": False, "error": answer.get("error")}))
    elif result is not None:
        _show(result)
    else:
        fail(printable(str(answer.get("error"))))
    if not answer["ok"]:
        raise click.exceptions.Exit(1)


def _show(result: dict[str, Any]) -> None:
    from angarium.config.problem import Problem

    for problem in result.get("problems", ()):
        click.echo(printable(str(Problem(**problem))), err=not result["applied"])
    if not result["applied"]:
        click.echo("angarium: the old configuration stays", err=True)
        return
    changed = result.get("changed", ())
    click.echo(f"changed: {', '.join(changed)}" if changed else "nothing has changed")
    for key in result.get("waiting", ()):
        click.echo(f"waits for a restart: {key}")


@click.command(short_help="Take no more mail, and deliver what is queued.")
@config_option
@spool_option
@click.option("--end", is_flag=True, help="Take mail again.")
@click.option("--wait", type=click.IntRange(0), metavar="SECONDS", help="Wait until no session and no mail is left.")
def drain(config: str | None, spool: Path | None, end: bool, wait: int | None) -> None:
    """Take no more mail, and deliver what is queued.

    Sessions between two transactions end with 421, new ones are answered 421, `/readyz` says 503. A transaction that is
    under way ends. It holds until `--end` or a restart of the relay, over reloads and deaths of workers. With --wait,
    exit status 1 when sessions or mail are left after so many seconds.
    """
    from angarium.app.node_socket import Request

    if end and wait is not None:
        raise click.UsageError("--end and --wait do not go together")
    folder = _spool(config, spool)
    _ask(folder, Request("drain", on=not end), ANSWER_S)
    if end:
        click.echo("the relay takes mail again")
        return
    if wait is None:
        click.echo("the relay takes no mail; what is queued is delivered")
        return
    until = time.monotonic() + wait
    while True:
        left = _ask(folder, Request("status"), ANSWER_S)["result"]
        if not left["connections"] and not left["messages"]:
            click.echo("no session and no message is left")
            return
        if time.monotonic() >= until:
            fail(f"left after {wait} s: {left['connections']} sessions, {left['messages']} messages")
        time.sleep(LOOK_S)


@click.command(short_help="Stop the running relay, and wait until it has ended.")
@config_option
@spool_option
def stop(config: str | None, spool: Path | None) -> None:
    """Stop the running relay as SIGTERM does, and wait until it has ended. What is queued stays queued."""
    from angarium.app.node_socket import Request, ask

    folder = _spool(config, spool)
    try:
        answer = ask(folder, Request("stop"), STOP_S)
    except TimeoutError:
        fail(f"the relay has not ended within {STOP_S:g} s")
    except OSError as failure:
        _unreachable(folder, failure)
    if answer is not None:
        fail(printable(str(answer.get("error"))))
    click.echo("stopped")


def _ask(spool: Path, request: Request, timeout_s: float) -> dict[str, Any]:
    from angarium.app.node_socket import ask

    try:
        answer = ask(spool, request, timeout_s)
    except TimeoutError:
        fail(f"the relay does not answer within {timeout_s:g} s")
    except OSError as failure:
        _unreachable(spool, failure)
    if answer is None:
        fail("the relay ended before it answered")
    return answer


def _unreachable(spool: Path, failure: OSError) -> NoReturn:
    fail(f"no relay can be asked in the spool {spool}: {failure.strerror}")


def _spool(config: str | None, spool: Path | None) -> Path:
    """The spool of the node that is meant.

    A file that is no TOML is read up to its first mistake: it is the node that is to say what is wrong with it.
    """
    if spool is not None:
        return spool
    path = Path(config or DEFAULT_CONFIG)
    try:
        text = path.read_text("utf-8-sig", "replace")
    except FileNotFoundError as failure:
        if config is None:
            return SANDBOX_SPOOL
        fail(f"{path}: {failure.strerror}")
    except OSError as failure:
        fail(f"{path}: {failure.strerror}")
    node = _readable_part(text).get("node", {})
    folder = node.get("spool") if isinstance(node, dict) else None
    if not isinstance(folder, str):
        fail(f"{path}: node.spool cannot be read; name the spool with --spool")
    return Path(os.path.abspath(path)).parent / folder


def _readable_part(text: str) -> dict[str, Any]:
    lines = text.splitlines(keepends=True)
    while lines:
        try:
            return tomllib.loads("".join(lines))
        except tomllib.TOMLDecodeError as error:
            found = str(error).rpartition("(at line ")[2].partition(",")[0]
            wrong = int(found) if found.isdecimal() else len(lines)
            lines = lines[: min(wrong, len(lines)) - 1]
    return {}
