"""`angarium status`: the running relay at a glance.

The JSON of `--json` is the admin API's, unchanged. Fails: RelayError, exit status 1.
"""

from __future__ import annotations

import json

import click

from angarium.cli.client import RelayClient, connecting, printable
from angarium.cli.show import ago, show_table

__all__ = ["status"]


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
    rows = []
    for worker in answer["workers"]:
        said = worker["status"]
        if said is None:
            rows.append((str(worker["worker"]), "no answer", "-", "-", "-"))
            continue
        state = "accepting" if said["accepting"] else "not accepting"
        shards = ", ".join(map(str, said["shards"]))
        rows.append((str(worker["worker"]), state, str(said["pid"]), shards, ago(said["uptime_s"])))
    for name in ("lookup", "access"):
        process = answer.get(name)
        if process is not None:
            said = process["status"]
            rows.append(
                (name, "no answer", "-", "-", "-")
                if said is None
                else (name, "answering", str(said["pid"]), "-", ago(said["uptime_s"]))
            )
    click.echo()
    show_table(("worker", "state", "process", "shards", "up"), rows, right=(0, 2, 4))
    totals = [(name.replace("_", " "), f"{value:,}") for name, value in answer["totals"].items()]
    show_table(None, totals, right=(1,))
