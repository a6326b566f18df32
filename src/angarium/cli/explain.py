"""`angarium explain`: where mail to an address would go, and why.

The JSON of `--json` is the admin API's, unchanged. Fails: RelayError, exit status 1; with --try also when the recipient
was not accepted.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from angarium.cli.client import RelayClient, connecting, printable
from angarium.cli.selection import path_of
from angarium.cli.show import ago, octets_text, show_table

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["explain"]


@click.command()
@click.argument("address")
@click.option("--from", "reverse_path", metavar="ADDRESS", help="Reverse path; <> or nothing: the null one.")
@click.option("--tenant", metavar="NAME", help="Whose mail it is.")
@click.option("--listener", metavar="NAME", help="Which listener accepted it.")
@click.option("--log-in", metavar="NAME", help="Who had authenticated.")
@click.option("--try", "trial", is_flag=True, help="Make a session up to RCPT, and send no mail.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@connecting
def explain(
    client: RelayClient,
    *,
    address: str,
    reverse_path: str | None,
    tenant: str | None,
    listener: str | None,
    log_in: str | None,
    trial: bool,
    as_json: bool,
) -> None:
    """Where mail to ADDRESS would go: route, DNS, hosts, TLS policy, connections, limits, and what would block it now.

    With --try the relay opens a session as it would for mail, up to RCPT; exit status 1 when the recipient was not
    accepted.
    """
    stated = {"from": path_of(reverse_path), "tenant": tenant, "listener": listener, "log_in": log_in}
    asked = {"address": address} | {name: value for name, value in stated.items() if value}
    answer = client.post("explain", body=asked) if trial else client.get("explain", **asked)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        _show(answer)
        if trial and answer["trial"] is None:
            click.echo("\nthere is no session to try")
    if trial and not (answer["trial"] or {}).get("accepted"):
        raise click.exceptions.Exit(1)


def _show(answer: dict[str, Any]) -> None:
    facts = [
        ("address", answer["address"]),
        ("route", _route_text(answer["route"])),
        *(("  asks for", text) for text in _conditions(answer["route"])),
        ("next hop", answer["next_hop"]),
    ]
    if answer["site"]:
        facts.append(("site", answer["site"]))
    if answer["tls"]:
        facts.append(("TLS", f"{answer['tls']['level']}, from {answer['tls']['source']}"))
    if answer.get("source"):
        facts.append(("sources", f"pool {answer['source']['pool']}, of the {answer['source']['of']}"))
    facts += [("listener", f"{each['listener']} answers a stranger {each['reply']}") for each in answer["inbound"]]
    facts += [("limits", ", ".join(_limits(answer["limits"])))]
    facts += [("blocked", block) for block in answer["blocks"]] or [("blocked", "by nothing")]
    show_table(None, facts)
    for other in answer["ahead"]:
        click.echo()
        rows = [("not taken", _route_text(other)), *(("  asks for", text) for text in _conditions(other))]
        show_table(None, rows)
    dns = answer["dns"]
    if dns is not None:
        click.echo()
        if dns["failure"]:
            click.echo(printable(f"DNS for {dns['domain']}: {dns['failure']}"))
        else:
            click.echo(printable(f"DNS for {dns['domain']}, asked again in {ago(dns['expires_s'] or 0)}"))
            vouched = "DNSSEC vouches for it" if dns["secure"] else "without DNSSEC"
            click.echo(printable(f"{vouched}; MTA-STS: {dns['mta_sts'] or 'none'}"))
            exchangers = [
                (
                    str(host["preference"]),
                    host["name"],
                    ", ".join(host["addresses"]),
                    "-" if host["tlsa"] is None else str(host["tlsa"]),
                )
                for host in dns["hosts"]
            ]
            show_table(("preference", "mail host", "addresses", "TLSA"), exchangers, right=(0, 3))
    if answer.get("source"):
        click.echo()
        sources = [
            (
                source["name"],
                ", ".join(source["addresses"]),
                source["hostname"],
                str(source["weight"]),
                f"cannot be used: {source['why_not']}" if source["why_not"] else "",
            )
            for source in answer["source"]["sources"]
        ]
        show_table(("source", "address", "EHLO", "weight", ""), sources, right=(3,))
    if answer["hosts"]:
        click.echo()
        tried = [
            (
                str(number),
                host["name"],
                host["address"] if host["address"].startswith("/") else f"{host['address']}:{host['port']}",
                f"{host['tls']['level']}, from {host['tls']['source']}",
                host["refused"] or (f"failed, rests for {ago(host['rests_s'])}" if host["rests_s"] else ""),
            )
            for number, host in enumerate(answer["hosts"], 1)
        ]
        show_table(("tried", "host", "address", "TLS", ""), tried, right=(0,))
    click.echo()
    workers = [
        (
            str(worker["worker"]),
            str(worker["open"]),
            str(worker["idle"]),
            str(worker["connecting"]),
            str(worker["ready"]),
            f"until {worker['blocked_until']}: {worker['reason']}" if worker["blocked_until"] else "-",
        )
        for worker in answer["workers"]
    ]
    show_table(("worker", "open", "idle", "connecting", "ready", "left alone"), workers, right=(0, 1, 2, 3, 4))
    if answer["trial"] is not None:
        click.echo()
        _show_trial(answer["trial"])


def _route_text(route: dict[str, Any]) -> str:
    if route["position"] is None:
        return "none in the configuration: the last resort, by MX"
    name = f'"{route["name"]}", ' if route["name"] else ""
    place = f"route[{route['position']}]"
    return f"{name}{place} of {route['file']}" if route["file"] else f"{name}{place}"


def _conditions(route: dict[str, Any]) -> Iterator[str]:
    if route["position"] is None:
        return
    for key, wanted in route["conditions"].items():
        texts = [f"{name}: {value}" for name, value in wanted.items()] if isinstance(wanted, dict) else wanted
        yield f"{key.replace('_', '-')}: {', '.join(texts[:10])}{', …' if len(texts) > 10 else ''}"


def _limits(limits: dict[str, Any]) -> Iterator[str]:
    yield f"{limits['connections']} connections ({limits['connections_of_a_worker']} of a worker)"
    if limits.get("messages_per_connection"):
        yield f"{limits['messages_per_connection']} messages per connection"
    if limits.get("message_size"):
        yield f"{octets_text(limits['message_size'])} a message"
    if limits.get("idle_s"):
        yield f"idle for {ago(limits['idle_s'])}"


def _show_trial(trial: dict[str, Any]) -> None:
    for tried in trial["hosts"]:
        click.echo(printable(f"{tried['host']}: {tried['failure'] or 'connected'}"))
    if trial["dialogue"]:
        click.echo(f"TLS: {trial['tls'] or 'none'}")
    for step in trial["dialogue"]:
        click.echo(printable(f"> {step['command']}"))
        for line in (step["reply"] or "no reply").splitlines():
            click.echo(printable(f"< {line}"))
    if trial["failure"]:
        click.echo(printable(trial["failure"]))
    click.echo("the recipient would be accepted" if trial["accepted"] else "the recipient was not accepted")
