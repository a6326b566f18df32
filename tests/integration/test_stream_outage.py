"""Streams whose receivers fail in every way, in a whole node: mail goes on, and no event is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ports import free_port
from tests.support.relay import Relay, run_command
from tests.support.stream_peer import HOST, KafkaBroker, Keys, Poster, nats, redis

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable

pytestmark = pytest.mark.peer

DISCARD = {"recipients": ["*"], "next_hop": "discard:"}
PASSWORD = "open-sesame"
WRONG = "0pen-sesame"
EVENTS = ["reception", "delivery"]
QUICK = {
    "start": "oldest",
    "events": EVENTS,
    "batch_wait": "20ms",
    "batch_events": 7,
    "timeout": "2s",
    "retry_first": "50ms",
    "retry_longest": "200ms",
}


def streams(relay: Relay) -> dict[str, dict[str, Any]]:
    """What is said of each stream; nothing while their process is replaced."""
    status = (relay.api("status")["events"] or {}).get("status") or {}
    return {stream["name"]: stream for stream in status.get("streams", ())}


def send(relay: Relay, count: int) -> None:
    """So many messages, which are delivered, whatever the streams do, and stand in the log."""
    before = len(relay.events("delivery"))
    for _ in range(count):
        relay.send("you@dest.test")
    relay.wait_empty()
    relay.wait_event("delivery", count=before + count)


def wait_failing(relay: Relay, errors: dict[str, str]) -> None:
    """Until each of these streams fails, for this reason; in the metrics as well."""
    shown: dict[str, dict[str, Any]] = {}

    def fail() -> bool:
        shown.update(streams(relay))
        return all(
            name in shown and shown[name]["state"] == "failing" and error in shown[name]["error"]
            for name, error in errors.items()
        )

    try:
        relay.wait(fail, f"streams that fail: {errors}")
    except AssertionError as failure:
        raise AssertionError(f"{ {name: one['error'] for name, one in shown.items()} }") from failure
    metrics = relay.metrics()
    for name in errors:
        assert metrics[f'angarium_stream_failing{{stream="{name}"}}'] == 1.0
        assert metrics[f'angarium_stream_failures_total{{stream="{name}"}}'] >= 1.0


def wait_sent(relay: Relay, names: Iterable[str], count: int) -> None:
    """Until each of these streams has sent so many events in its life, and says that it works."""

    def sent() -> bool:
        found = streams(relay)
        return all(
            name in found and found[name]["state"] != "failing" and found[name]["sent"] >= count for name in names
        )

    try:
        relay.wait(sent, f"{count} events to be sent", 120.0)
    except AssertionError as failure:
        raise AssertionError(f"{streams(relay)}") from failure


def first_of_each(keys: Iterable[Any]) -> list[Any]:
    """In the order in which each came for the first time."""
    return list(dict.fromkeys(keys))


class Receivers:
    """One of each kind; Kafka where it is there. What they have is given as (event, id), with all repetitions."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        self.keys = keys
        self.folder = folder
        self.broker = KafkaBroker(folder / "kafka", keys) if KafkaBroker.is_there() else None
        self.webhook = Poster()
        self.collector = Poster()
        self.redis_port = free_port()
        self.nats_port = free_port()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._ends = contextlib.ExitStack()

    def streams(self) -> list[dict[str, Any]]:
        """The configuration of a stream to each."""
        urls = {
            "webhook": f"http://127.0.0.1:{self.webhook.port}/mail",
            "otlp": f"otlp+http://127.0.0.1:{self.collector.port}/v1/traces",
            "redis": f"redis://{HOST}:{self.redis_port}/mail-events",
            "nats": f"nats://{HOST}:{self.nats_port}/mail.events",
        }
        if self.broker is not None:
            urls["kafka"] = self.broker.url("PLAIN")
        return [QUICK | {"name": name, "url": url} for name, url in urls.items()]

    def start(self) -> None:
        """All of them."""
        self.webhook.start()
        self.collector.start()
        enter = self._ends.enter_context
        self.running["redis"] = enter(redis(self.folder / "redis", self.redis_port))
        self.running["nats"] = enter(nats(self.folder / "nats", self.nats_port))
        if self.broker is not None:
            self._start_kafka()
        asyncio.run(self._nats({}))

    def hang(self) -> None:
        """Connections come about, for they are the kernel's, and nobody answers."""
        for process in self.running.values():
            process.send_signal(signal.SIGSTOP)
        self.webhook.hold()
        self.collector.hold()

    def fill(self) -> None:
        """They answer that they have no room: by HTTP, out of memory, at the bound of a stream. A Kafka whose disk is
        full ends."""
        self.webhook.status = 507
        self.collector.status = 429
        asyncio.run(self._redis("CONFIG", "SET", "maxmemory", "1"))
        asyncio.run(self._nats({"discard": "new"}, full=True))
        if self.broker is not None:
            self._end_kafka.close()

    def heal(self) -> None:
        """They take what comes."""
        for process in self.running.values():
            process.send_signal(signal.SIGCONT)
        self.webhook.status = self.collector.status = 200
        self.webhook.go_on()
        self.collector.go_on()
        asyncio.run(self._redis("CONFIG", "SET", "maxmemory", "0"))
        asyncio.run(self._nats({"max_msgs": -1}))
        if self.broker is not None and self.running["kafka"].poll() is not None:
            self._start_kafka()

    def __enter__(self) -> Receivers:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self.webhook, self.collector):
            one.__exit__()
        self._ends.close()

    # what each has

    def have(self) -> dict[str, list[tuple[str, str]]]:
        """By the name of the stream."""
        posted = [event for body in self.webhook.bodies for event in json.loads(body)["events"]]
        named = {"message": "reception", "attempt": "delivery"}
        traced = [
            (named[span.name], next(one.value.string_value for one in span.attributes if one.key == "angarium.id"))
            for span in self.collector.spans()
        ]
        found = {
            "webhook": [(event["event"], event["id"]) for event in posted],
            "otlp": traced,
            "redis": [
                _told(fields[b"event"]) for _, fields in asyncio.run(self._redis("XRANGE", "mail-events", "-", "+"))
            ],
            "nats": [_told(octets) for octets in asyncio.run(self._nats_messages())],
        }
        if self.broker is not None:
            found["kafka"] = [_told(octets) for octets in asyncio.run(self._kafka_records())]
        return found

    async def _redis(self, *command: str) -> Any:
        from redis.asyncio import Redis

        async with Redis(host=HOST, port=self.redis_port) as client:
            return await client.execute_command(*command)

    async def _nats(self, changes: dict[str, Any], *, full: bool = False) -> None:
        import nats as library

        client = await library.connect(f"nats://{HOST}:{self.nats_port}")
        context = client.jetstream()
        settings: dict[str, Any] = {"name": "mail", "subjects": ["mail.>"], **changes}
        try:
            if not changes:
                await context.add_stream(**settings)
            else:
                if full:  # at this bound
                    settings["max_msgs"] = (await context.stream_info("mail")).state.messages
                await context.update_stream(**settings)
        finally:
            await client.close()

    async def _nats_messages(self) -> list[bytes]:
        import nats as library

        client = await library.connect(f"nats://{HOST}:{self.nats_port}")
        context = client.jetstream()
        state = (await context.stream_info("mail")).state
        found = [await context.get_msg("mail", number) for number in range(state.first_seq, state.last_seq + 1)]
        await client.close()
        return [message.data or b"" for message in found]

    def _start_kafka(self) -> None:
        assert self.broker is not None
        self._end_kafka = self._ends.enter_context(contextlib.ExitStack())
        self.running["kafka"] = self._end_kafka.enter_context(self.broker.running())

    async def _kafka_records(self) -> list[bytes]:
        assert self.broker is not None
        from aiokafka import AIOKafkaConsumer, TopicPartition

        consumer = AIOKafkaConsumer(bootstrap_servers=f"{HOST}:{self.broker.ports['PLAIN']}")
        await consumer.start()
        try:
            partition = TopicPartition("mail-events", 0)
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition)
            end = (await consumer.end_offsets([partition]))[partition]
            return [(await consumer.getone()).value for _ in range(end)]
        finally:
            await consumer.stop()


def _told(octets: bytes) -> tuple[str, str]:
    event = json.loads(octets)
    return event["event"], event["id"]


def test_receivers_that_are_gone_hang_and_are_full(tmp_path: Path) -> None:
    """Of every kind at once. What is promised: each event at least once, for the first time in the log's order."""
    folder = tmp_path / "peers"
    for name in ("redis", "nats", "kafka"):
        (folder / name).mkdir(parents=True)
    with Receivers(folder, Keys(folder)) as receivers:
        config = {"route": [DISCARD], "stream": receivers.streams()}
        names = [stream["name"] for stream in receivers.streams()]
        with Relay(tmp_path / "node", config) as relay:
            send(relay, 10)
            wait_failing(relay, dict.fromkeys(names, "nobody listens there: the connection is refused"))
            receivers.start()
            wait_sent(relay, names, 20)

            receivers.hang()
            send(relay, 10)
            wait_failing(relay, dict.fromkeys(names, "no answer"))
            relay.kill_process(relay.api("status")["events"]["status"]["pid"])
            send(relay, 10)
            wait_failing(relay, dict.fromkeys(names, "no answer"))
            receivers.heal()
            wait_sent(relay, names, 60)

            receivers.fill()
            send(relay, 10)
            full = {
                "webhook": "HTTP status 507",
                "otlp": "HTTP status 429",
                "redis": "redis: it is out of memory: command not allowed when used memory > 'maxmemory'",
                "nats": "nats: JetStream does not store it: maximum messages exceeded",
                "kafka": "kafka: nobody listens there: the connection is refused",
            }
            wait_failing(relay, {name: full[name] for name in names})
            shown = run_command("status", "--config", str(relay.config_file)).stdout
            assert all(name in shown for name in names)
            receivers.heal()
            wait_sent(relay, names, 80)

            in_log = [(event["event"], event["id"]) for event in relay.events() if event["event"] in EVENTS]
            assert len(in_log) == 80
            for name, got in receivers.have().items():
                assert first_of_each(got) == in_log, name
            metrics = relay.metrics()
            for name in names:
                assert metrics[f'angarium_stream_failing{{stream="{name}"}}'] == 0.0
                assert metrics[f'angarium_stream_lost_events_total{{stream="{name}"}}'] == 0.0
                assert metrics[f'angarium_stream_dead_letters{{stream="{name}"}}'] == 0.0
    if not KafkaBroker.is_there():
        pytest.skip(f"all but Kafka did: {KafkaBroker.MISSING}")


def test_who_is_not_trusted_or_not_let_in_is_said_and_no_secret_is(tmp_path: Path) -> None:
    """A wrong authority, then a wrong password, then neither: files are read again, and every event was kept."""
    peers = tmp_path / "peers"
    for name in ("redis", "nats", "kafka"):
        (peers / name).mkdir(parents=True)
    keys = Keys(peers)
    trusted, secret_file = tmp_path / "ca.pem", tmp_path / "secret"
    trusted.write_bytes(Path(keys.other_ca).read_bytes())
    secret_file.write_text(WRONG)
    secret_file.chmod(0o600)
    certificate, key = keys.client
    redis_port, nats_port = free_port(), free_port()
    broker = KafkaBroker(peers / "kafka", keys)
    users = peers / "users.acl"
    users.write_text(f"user default off\nuser relay on >{PASSWORD} ~* +@all\n")
    log_in = {"user": "relay", "secret_file": str(secret_file), "ca": str(trusted)}
    shown = {"certificate": certificate, "key": key}
    to = {
        "redis": {"url": f"rediss://{HOST}:{redis_port}/mail-events", **log_in, **shown},
        "nats": {"url": f"natss://{HOST}:{nats_port}/mail.events", **log_in, **shown},
        "kafka": {"url": broker.url("SASL_TLS"), **log_in, "mechanism": "SCRAM-SHA-512"},
    }
    config = {"route": [DISCARD], "stream": [QUICK | {"name": name} | keys_ for name, keys_ in to.items()]}
    users_of_nats = f'authorization {{ users: [ {{ user: relay, password: "{PASSWORD}" }} ] }}'
    with (
        redis(peers / "redis", redis_port, "--aclfile", str(users), "--tls-auth-clients", "yes", tls=keys),
        nats(peers / "nats", nats_port, users_of_nats, tls=keys, verify=True),
        broker.running(),
        Relay(tmp_path / "node", config) as relay,
    ):
        send(relay, 5)
        wait_failing(relay, dict.fromkeys(to, "the certificate of the other side is not trusted: "))
        trusted.write_bytes(Path(keys.ca).read_bytes())
        send(relay, 5)
        wait_failing(relay, dict.fromkeys(to, "the log-in is refused: "))
        secret_file.write_text(PASSWORD)
        asyncio.run(_make_nats_stream(nats_port, keys))
        send(relay, 5)
        wait_sent(relay, to, 30)
        assert {name: one["sent"] for name, one in streams(relay).items()} == dict.fromkeys(to, 30)
        said = [
            relay.stderr,
            json.dumps(relay.events()),
            relay.get("/api/v1/status")[1].decode(),
            relay.get("/metrics")[1].decode(),
            run_command("status", "--config", str(relay.config_file)).stdout,
            run_command("check", "--config", str(relay.config_file)).stdout,
            run_command("stream", "list", "--json", "--config", str(relay.config_file)).stdout,
        ]
        assert all(text for text in said)
        assert not [text for text in said if PASSWORD in text or WRONG in text]


async def _make_nats_stream(port: int, keys: Keys) -> None:
    import ssl

    import nats as library

    context = ssl.create_default_context(cafile=keys.ca)
    context.load_cert_chain(*keys.client)
    client = await library.connect(
        f"nats://{HOST}:{port}", tls=context, tls_hostname=HOST, user="relay", password=PASSWORD
    )
    await client.jetstream().add_stream(name="mail", subjects=["mail.>"])
    await client.close()


def hook(name: str, poster: Poster) -> dict[str, Any]:
    """A stream to a webhook, which gives a batch time."""
    return QUICK | {"name": name, "url": f"http://127.0.0.1:{poster.port}/mail", "timeout": "60s"}


def events_of(poster: Poster) -> list[tuple[str, str]]:
    return [(event["event"], event["id"]) for body in poster.bodies for event in json.loads(body)["events"]]


def test_a_reload_while_batches_are_under_way(tmp_path: Path) -> None:
    """One stream goes, one changes, one stays, one comes; the one that went comes back and goes on where it was."""
    with contextlib.ExitStack() as ends:
        gone, before, after, same, new = (ends.enter_context(Poster()) for _ in range(5))
        posters = (gone, before, after, same, new)
        for poster in posters:
            poster.start()
        config = {"route": [DISCARD], "stream": [hook("gone", gone), hook("moved", before), hook("same", same)]}
        relay = ends.enter_context(Relay(tmp_path, config))
        send(relay, 5)
        wait_sent(relay, ("gone", "moved", "same"), 10)
        for poster in posters:
            poster.hold()
        send(relay, 5)
        relay.wait(lambda: gone.held and before.held and same.held, "batches under way")
        relay.reload({"stream": [hook("moved", after), hook("same", same), hook("new", new)]})
        relay.wait(lambda: after.held and new.held and same.held > 1, "batches of the successor under way")
        send(relay, 5)
        for poster in posters:
            poster.go_on()
        wait_sent(relay, ("moved", "same", "new"), 30)
        in_log = [(event["event"], event["id"]) for event in relay.events() if event["event"] in EVENTS]
        assert len(in_log) == 30
        assert first_of_each(events_of(same)) == in_log
        assert first_of_each(events_of(new)) == in_log  # it starts with the oldest
        assert first_of_each(events_of(after)) == in_log[10:]  # what the other had not answered by then is sent again
        relay.wait(lambda: not gone.held, "what was under way to be taken")
        assert events_of(gone)[:10] == in_log[:10]
        taken = len(gone.bodies)
        relay.reload({"stream": [hook("gone", gone)]})
        wait_sent(relay, ["gone"], 30)
        assert first_of_each(events_of(gone)) == in_log
        again = [(event["event"], event["id"]) for body in gone.bodies[taken:] for event in json.loads(body)["events"]]
        assert again == in_log[10:]
