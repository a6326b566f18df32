"""`angarium status`: the running relay at a glance.

The JSON of `--json` is the admin API's, unchanged. Fails: RelayError, exit status 1.
"""

from __future__ import annotations

import json
from typing import Any

import click

from angarium.cli.client import RelayClient, connecting, printable
from angarium.cli.show import ago, show_table

__all__ = ["show_streams", "status"]

DIGEST_SHOWN = 16  # of its 64 digits; `--json` has all of them


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def status(client: RelayClient, *, as_json: bool) -> None:
    """Whether the relay accepts mail, its workers, and what it has done since it started."""
    answer = client.get("status")
    if as_json:
        click.echo(json.dumps(answer))
        return
    accepting = "accepting mail" if answer["accepting"] else "not accepting mail"
    mode = ", sandbox" if answer["sandbox"] else ""
    click.echo(
        f"{printable(answer['hostname'])}: {accepting}{mode}, up {ago(answer['uptime_s'])},"
        f" version {printable(answer['version'])}"
    )
    for reason in answer["reasons"]:
        click.echo(f"  {printable(reason)}")
    if answer.get("configuration") is not None:
        _show_configuration(answer["configuration"])
    rows = []
    for worker in answer["workers"]:
        said = worker["status"]
        if said is None:
            rows.append((str(worker["worker"]), "no answer", "-", "-", "-"))
            continue
        state = "accepting" if said["accepting"] else "not accepting"
        shards = ", ".join(map(str, said["shards"]))
        rows.append((str(worker["worker"]), state, str(said["pid"]), shards, ago(said["uptime_s"])))
    for name in ("lookup", "access", "events"):
        process = answer.get(name)
        if process is not None:
            said = process["status"]
            rows.append(
                (name, "no answer", "-", "-", "-")
                if said is None
                else (name, "answering", str(said["pid"]), "-", ago(said["uptime_s"]))
            )
    events = answer.get("events")
    if events is not None and events["status"] is not None and events["status"]["streams"]:
        click.echo()
        show_streams(events["status"]["streams"])
    click.echo()
    show_table(("worker", "state", "process", "shards", "up"), rows, right=(0, 2, 4))
    totals = [(name.replace("_", " "), f"{value:,}") for name, value in answer["totals"].items()]
    show_table(None, totals, right=(1,))


def show_streams(streams: list[dict[str, Any]]) -> None:
    """Where events are sent on, and how far that is."""
    rows = []
    for stream in streams:
        behind = f"{stream['lag_events']:,}" + (f", {ago(stream['lag_s'])}" if stream["lag_s"] else "")
        counts = [f"{stream[name]:,}" for name in ("sent", "failures", "dead_letters", "lost")]
        rows.append((stream["name"], stream["to"], stream["state"], behind, *counts, stream["error"] or "-"))
    head = ("stream", "to", "state", "behind", "sent", "failures", "dead letters", "lost", "why")
    show_table(head, rows, right=(3, 4, 5, 6, 7))


def _show_configuration(configuration: dict[str, Any]) -> None:
    """Which one is in force, what waits for a restart, and what became of the last file that was refused."""
    file, digest = configuration["file"], configuration["sha256"]
    where = "built in" if file is None else f"{printable(file)}, sha256 {printable(str(digest))[:DIGEST_SHOWN]}"
    click.echo(f"configuration: {where}, in force since {printable(configuration['since'])}")
    for key in configuration["waiting"]:
        click.echo(f"  waits for a restart: {printable(key)}")
    if configuration["reload"] is not None:
        click.echo(f"  reload under way: {printable(configuration['reload']['phase'])}")
    refused = configuration["last_refused"]
    if refused is not None:
        click.echo(f"  last refused {printable(refused['time'])}: {printable('; '.join(refused['problems']))}")
