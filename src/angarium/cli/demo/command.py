"""`angarium demo`: a sandbox with a few thousand messages, providers that defer and refuse, and Prometheus beside it.

Starts a relay in sandbox mode (`angarium serve --sandbox`) and, when it is installed, Prometheus on a configuration of
its own; plays the mail hosts, and who receives events; sends; and says what it did. Everything is on loopback and in
one folder, which is made anew at each start. `--once` ends it when the queue is empty or at SETTLE_LIMIT_S; without it,
it stays until Ctrl-C or `--minutes`.

Fails with status 1 and a line when the relay or Prometheus does not start, or the folder holds something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from angarium.cli.main import fail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from angarium.cli.demo.receiver import Receiver
    from angarium.cli.demo.traffic import Traffic
    from angarium.cli.demo.world import World

START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
SETTLE_LIMIT_S = 300.0
LOOK_S = 0.2
EXPIRE_S = 40
DEAD_RETRY = '{ first = "2s", factor = 1.5, longest = "5s", expire = "15s" }'  # of who does not listen

CONFIG = """\
# Written by `angarium demo`, and written again at its next start.
sandbox = true

[node]
hostname = "relay.demo.test"
spool = "{folder}/spool"
workers = 2

[admin]
listen = "127.0.0.1:{http}"

[tls]
certificate = "{certificate}"
key = "{key}"

[events]
file = "{folder}/events.jsonl"

[[stream]]
name = "{stream}"
url = "http://127.0.0.1:{receiver}/events"
secret = "demo"
events = ["delivery", "bounce", "expiry"]

[limits]
message_size = "{largest}"

[queue]
segment_size = "16MB"
retry = {{ first = "3s", factor = 1.5, longest = "10s", expire = "{expire}s", warn_after = "0s" }}

[[tenant]]
name = "shop"
[[tenant]]
name = "codes"
weight = 5
durability = "memory"
[[tenant]]
name = "newsletter"
class = "bulk"
durability = "async"
durability_ceiling = "async"

[[listener]]
name = "shop"
listen = "127.0.0.1:{shop}"
role = "relay"
relay_networks = ["127.0.0.0/8"]
tenant = "shop"

[[listener]]
name = "newsletter"
listen = "127.0.0.1:{newsletter}"
role = "relay"
relay_networks = ["127.0.0.0/8"]
tenant = "newsletter"

[[listener]]
name = "codes"
listen = "127.0.0.1:{codes}"
role = "submission"
tls = "starttls"
auth = "any"
tenant = "codes"
"""

ROUTE = """
[[route]]
name = "{name}"
recipients = [{domains}]
next_hop = "smtp://{address}:{port}"
"""

PROVIDER = """
[[provider]]
name = "{name}"
domains = [{domains}]
mail_hosts = ["{address}"]
"""

PROMETHEUS = """\
global:
  scrape_interval: {every}s
  evaluation_interval: {every}s
rule_files: {rules}
scrape_configs:
  - job_name: angarium
    static_configs:
      - targets: ["127.0.0.1:{http}"]
"""


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".demo"), show_default=True)
@click.option(
    "--messages", type=click.IntRange(1, 1_000_000), default=4000, show_default=True, help="How many to send."
)
@click.option("--rate", type=click.FloatRange(0.1, 10_000), default=60.0, show_default=True, help="Messages a second.")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=1, show_default=True, help="The story.")
@click.option("--once", is_flag=True, help="End when the queue is empty again.")
@click.option(
    "--minutes", type=click.FloatRange(0.1, 1440), default=60.0, show_default=True, help="The longest it runs."
)
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write what was done, as JSON, when the queue is empty."
)
@click.option("--smtp-port", type=click.IntRange(1, 65535), default=2525, show_default=True, help="Tenant shop.")
@click.option("--newsletter-port", type=click.IntRange(1, 65535), default=2527, show_default=True, help="Its tenant.")
@click.option("--submission-port", type=click.IntRange(1, 65535), default=2587, show_default=True, help="Tenant codes.")
@click.option(
    "--http-port", type=click.IntRange(1, 65535), default=8025, show_default=True, help="Console and metrics."
)
@click.option("--hosts-port", type=click.IntRange(1, 65535), default=2526, show_default=True, help="The providers'.")
@click.option(
    "--prometheus-port", type=click.IntRange(0, 65535), default=9090, show_default=True, help="0: no Prometheus."
)
@click.option("--scrape-every", type=click.IntRange(1, 60), default=2, show_default=True, help="Seconds.")
@click.option("--rules", type=click.Path(path_type=Path, exists=True), help="Folder with *.yml rules for Prometheus.")
def demo(
    folder: Path,
    messages: int,
    rate: float,
    seed: int,
    once: bool,
    minutes: float,
    report: Path | None,
    smtp_port: int,
    newsletter_port: int,
    submission_port: int,
    http_port: int,
    hosts_port: int,
    prometheus_port: int,
    scrape_every: int,
    rules: Path | None,
) -> None:
    """Run a sandbox that has something to show: mail, deferrals, bounces; and Prometheus when it is installed."""
    import uvloop

    from angarium.cli.demo.receiver import STREAM
    from angarium.cli.demo.traffic import LARGEST_OCTETS
    from angarium.cli.demo.world import PROVIDERS

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the loop takes it: what was started is ended
    folder = folder.absolute()
    ports = {"shop": smtp_port, "newsletter": newsletter_port, "codes": submission_port}
    if clash := duplicates([*ports.values(), http_port, prometheus_port]):
        raise click.UsageError(f"port {clash} is given twice")
    try:
        clean(folder)
        certificate, key = certificate_in(folder)
        receiver = bound("127.0.0.1", 0)
        receiver.listen()  # or the stream's first batch would be refused before there is somebody to take it
        text = CONFIG.format(
            folder=folder,
            stream=STREAM,
            receiver=receiver.getsockname()[1],
            http=http_port,
            certificate=certificate,
            key=key,
            largest=LARGEST_OCTETS,
            expire=EXPIRE_S,
            **ports,
        )
        for provider in PROVIDERS:
            listed = ["*"] if provider is PROVIDERS[-1] else provider.domains
            domains = ", ".join(f'"{domain}"' for domain in listed)
            if provider is not PROVIDERS[-1]:
                text += PROVIDER.format(name=provider.name, domains=domains, address=provider.address)
            retry = "" if provider.listens else f"retry = {DEAD_RETRY}\n"
            text += ROUTE.format(name=provider.name, domains=domains, address=provider.address, port=hosts_port) + retry
        config = folder / "demo.toml"
        config.write_text(text)
        done = Demo(folder, ports, hosts_port, http_port, messages, rate, seed, once, minutes * 60, report)
        with (
            relay_running(config, http_port),
            prometheus_running(folder, http_port, prometheus_port, scrape_every, rules) as prometheus,
        ):
            done.announce(prometheus_port if prometheus else 0)
            uvloop.run(done.run(certificate, key, receiver))
    except DemoFailure as failure:
        fail(str(failure))
    except OSError as failure:
        fail(f"{failure.filename or folder}: {failure.strerror}")
    click.echo("angarium: the demo has ended", err=True)


class DemoFailure(Exception):
    """The demo cannot go on; the message says why in one line."""


class Demo:
    """What happens between the start of the relay and its end."""

    def __init__(
        self,
        folder: Path,
        ports: dict[str, int],
        hosts_port: int,
        http_port: int,
        messages: int,
        rate: float,
        seed: int,
        once: bool,
        longest_s: float,
        report: Path | None,
    ) -> None:
        self._folder = folder
        self._ports = ports
        self._hosts_port = hosts_port
        self._http_port = http_port
        self._messages = messages
        self._rate = rate
        self._seed = seed
        self._once = once
        self._longest_s = longest_s
        self._report = report

    def announce(self, prometheus_port: int) -> None:
        """Say where to find what."""
        lines = [
            f"angarium demo, in {self._folder}",
            f"  console     http://127.0.0.1:{self._http_port}/",
            f"  metrics     http://127.0.0.1:{self._http_port}/metrics",
        ]
        if prometheus_port:
            lines.append(
                f"  Prometheus  http://127.0.0.1:{prometheus_port}/ (grafana/README.md says how to see the boards)"
            )
        else:
            lines.append("  Prometheus  not running: it is not installed, or was not wanted")
        lines.append(f"  {self._messages} messages at about {self._rate:g} a second; Ctrl-C ends everything")
        click.echo("\n".join(lines), err=True)

    async def run(self, certificate: Path, key: Path, receives: socket.socket) -> None:
        """Play the hosts, send, wait until the queue is empty, say what was done, stay. receives: who takes events
        listens there."""
        from angarium.cli.demo.receiver import Receiver
        from angarium.cli.demo.traffic import Traffic, letters
        from angarium.cli.demo.world import PROVIDERS, World
        from angarium.ingress.certificates import LiveContext
        from angarium.ingress.listener import TlsUpgrade

        loop = asyncio.get_running_loop()
        stop, closed = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        timer = loop.call_later(self._longest_s, stop.set)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        world = World(self._folder / "spool" / "sink" / "Maildir", self._seed, TlsUpgrade(LiveContext(context), 30.0))
        for provider in PROVIDERS:
            if provider.listens:
                await world.open(provider, bound(provider.address, self._hosts_port))
        receiver = Receiver()
        await receiver.open(receives)
        house = asyncio.create_task(world.run_until(closed))
        traffic = Traffic()
        try:
            sent = letters(self._messages, self._seed)
            await traffic.send(sent, self._ports, self._rate, stop, self._progress)
            await self._settled(stop, receiver)
            self._tell(traffic, world, receiver)
            if not self._once:
                await stop.wait()
        finally:
            timer.cancel()
            closed.set()
            await house
            world.close()
            await receiver.close()

    def _progress(self, number: int) -> None:
        if number % 1000 == 0 or number == self._messages:
            click.echo(f"  {number} messages submitted", err=True)

    async def _settled(self, stop: asyncio.Event, receiver: Receiver) -> None:
        """Wait until the queue is empty, and everything that came of it is received; at most SETTLE_LIMIT_S."""
        until = time.monotonic() + SETTLE_LIMIT_S
        api = f"http://127.0.0.1:{self._http_port}/api/v1"
        while not stop.is_set() and time.monotonic() < until:
            with contextlib.suppress(OSError):
                if not (await asyncio.to_thread(read_json, f"{api}/queue/summary"))["messages"]:
                    totals = (await asyncio.to_thread(read_json, f"{api}/status"))["totals"]
                    ended = sum(totals[f"{what}_recipients"] for what in ("delivered", "failed", "expired"))
                    if receiver.taken.total() >= ended:
                        return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)

    def _tell(self, traffic: Traffic, world: World, receiver: Receiver) -> None:
        report = {
            "accepted": dict(traffic.accepted),
            "recipients": dict(traffic.recipients),
            "refused": dict(traffic.refused),
            "lost": traffic.lost,
            "octets": traffic.octets,
            "providers": {name: dict(told) for name, told in world.told.items()},
            "events": dict(receiver.taken),
            "refused_batches": receiver.refused,
        }
        click.echo(
            f"  {sum(traffic.accepted.values())} messages accepted, {sum(traffic.refused.values())} refused", err=True
        )
        for name, told in world.told.items():
            click.echo(
                f"  {name:<10} " + ", ".join(f"{count} {what}" for what, count in sorted(told.items())), err=True
            )
        click.echo(f"  {receiver.taken.total()} events received by a webhook", err=True)
        if self._report is not None:
            part = self._report.with_name(self._report.name + ".part")
            part.write_text(json.dumps(report, indent=1) + "\n")
            part.rename(self._report)


def duplicates(ports: list[int]) -> int:
    """A port that is there twice, else 0."""
    return next((port for port in ports if port and ports.count(port) > 1), 0)


def clean(folder: Path) -> None:
    """An empty folder, or the one of the last demo without what it left."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "demo.toml").is_file():
        raise DemoFailure(f"{folder} holds something that is not a demo's: name another folder")
    for name in ("spool", "prometheus"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "events.jsonl").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def certificate_in(folder: Path) -> tuple[Path, Path]:
    """The demo's own certificate and its key."""
    from angarium.app.certificate import ensure_certificate

    return ensure_certificate(folder / "tls")


def bound(address: str, port: int) -> socket.socket:
    """A listening socket of a host."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
    except OSError as failure:
        sock.close()
        raise DemoFailure(f"cannot listen on {address}:{port}: {failure.strerror}") from None
    sock.setblocking(False)
    return sock


def read_json(address: str) -> Any:
    """What an HTTP server on this machine says."""
    with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310  # the address is the demo's own
        return json.load(answer)


@contextlib.contextmanager
def relay_running(config: Path, http_port: int) -> Iterator[None]:
    """The relay, until it is ready and until the block ends."""
    argv = [sys.executable, "-m", "angarium.cli.main", "serve", "--sandbox", "--config", str(config)]
    with process_running("the relay", argv, config.parent / "relay.log", f"http://127.0.0.1:{http_port}/readyz"):
        yield


@contextlib.contextmanager
def prometheus_running(folder: Path, http_port: int, port: int, every: int, rules: Path | None) -> Iterator[bool]:
    """Prometheus on a configuration of its own, where it is installed. Yields whether it runs."""
    program = shutil.which("prometheus")
    if program is None or not port:
        yield False
        return
    own = folder / "prometheus"
    own.mkdir()
    files = [
        str(path.absolute()) for name in ("recording.yml", "alerts.yml") if rules and (path := rules / name).is_file()
    ]
    config = own / "prometheus.yml"
    config.write_text(PROMETHEUS.format(every=every, http=http_port, rules=json.dumps(files)))
    argv = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={own / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    root = f"http://127.0.0.1:{port}"
    with process_running("Prometheus", argv, own / "prometheus.log", f"{root}/-/ready"):
        until = time.monotonic() + START_LIMIT_S  # a rate begins with the second scrape: the first is to see zeros
        while not read_json(f"{root}/api/v1/query?query=up==1")["data"]["result"] and time.monotonic() < until:
            time.sleep(LOOK_S)
        yield True


@contextlib.contextmanager
def process_running(what: str, argv: list[str], log: Path, ready: str) -> Iterator[None]:
    """A program in a process group of its own: a Ctrl-C is for the demo, which ends it in its turn."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0)
    try:
        until = time.monotonic() + START_LIMIT_S
        while not answers(ready):
            if process.poll() is not None or time.monotonic() > until:
                raise DemoFailure(f"{what} does not start: {last_line(log)}")
            time.sleep(LOOK_S)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(address: str) -> bool:
    """Whether an HTTP server says 200 there."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310  # the address is the demo's own
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def last_line(log: Path) -> str:
    """The end of a log."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1]} ({log})" if lines else f"see {log}"
