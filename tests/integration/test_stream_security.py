"""Streams by TLS and log-in, to real servers: who may not in is told the cause in plain words, and no secret."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from angarium.app.stream.make import make_sink
from angarium.app.stream.sink import Batch, Item, SinkFailure
from angarium.config.secret import Secret
from tests.support.ports import free_port
from tests.support.stream import event_line
from tests.support.stream_peer import HOST, KafkaBroker, Keys, nats, on_uvloop, redis, stream_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.peer

ITEMS = tuple(Item(event_line(number, id=f"0SAQS2V780G0{number}")[:-1], f"abc-{number}") for number in range(5))
PASSWORD = "open-sesame"
WRONG = "0pen-sesame"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


async def taken(url: str, **more: Any) -> None:
    """A batch is sent there, and taken."""
    sink = make_sink(stream_to(url, **more), "relay.test", lambda: 0.0)
    try:
        await sink.send(Batch(ITEMS))
    finally:
        await sink.close()


async def refusal(url: str, **more: Any) -> str:
    """A batch is sent there, and is not taken; why. It is the same the second time, and no secret is in it."""
    sink = make_sink(stream_to(url, **more), "relay.test", lambda: 0.0)
    try:
        said = []
        for _ in range(2):
            with pytest.raises(SinkFailure) as failure:
                await sink.send(Batch(ITEMS))
            said.append(failure.value.text)
    finally:
        await sink.close()
    assert said[0] == said[1]
    assert PASSWORD not in said[0]
    assert WRONG not in said[0]
    assert not failure.value.refused  # it is not the events' fault: they are kept
    return said[0]


# ---------------------------------------------------------------- Redis


@on_uvloop
async def test_redis_by_tls(tmp_path: Path, keys: Keys) -> None:
    from redis.asyncio import Redis

    port = free_port()
    url = f"rediss://{HOST}:{port}/mail-events"
    with redis(tmp_path, port, "--tls-auth-clients", "no", tls=keys):
        await taken(url, ca=keys.ca)
        reader = Redis(host=HOST, port=port, ssl=True, ssl_ca_certs=keys.ca)
        assert [fields[b"id"] for _, fields in await reader.xrange("mail-events")] == [i.key.encode() for i in ITEMS]
        await reader.aclose()
        for ca in (keys.other_ca, None):
            assert "redis: the certificate of the other side is not trusted" in await refusal(url, ca=ca)
        elsewhere = url.replace(HOST, "127.0.0.1")
        assert "not trusted: IP address mismatch" in await refusal(elsewhere, ca=keys.ca)
        assert "redis: the other side has closed the connection" in await refusal(url.replace("rediss", "redis"))


@on_uvloop
async def test_redis_asks_for_a_client_certificate(tmp_path: Path, keys: Keys) -> None:
    port = free_port()
    url = f"rediss://{HOST}:{port}/mail-events"
    with redis(tmp_path, port, "--tls-auth-clients", "yes", tls=keys):
        certificate, key = keys.client
        await taken(url, ca=keys.ca, certificate=certificate, key=key)
        assert "asks for a client certificate" in await refusal(url, ca=keys.ca)
        certificate, key = keys.stranger
        assert "does not accept the client certificate" in await refusal(
            url, ca=keys.ca, certificate=certificate, key=key
        )
        assert "stream.certificate" in await refusal(url, ca=keys.ca, certificate=certificate, key=keys.client[1])


@on_uvloop
async def test_redis_asks_for_a_log_in(tmp_path: Path, keys: Keys) -> None:
    """With access control of Redis 6 and later: a user who may add to one stream and nothing else."""
    port = free_port()
    url = f"rediss://{HOST}:{port}/mail-events"
    users = tmp_path / "users.acl"
    users.write_text(f"user default off\nuser relay on >{PASSWORD} ~mail-* -@all +xadd +multi +exec\n")
    with redis(tmp_path, port, "--aclfile", str(users), "--tls-auth-clients", "no", tls=keys):
        await taken(url, ca=keys.ca, user="relay", secret=Secret(PASSWORD))
        for user, secret in (("relay", Secret(WRONG)), ("nobody", Secret(PASSWORD)), (None, Secret(PASSWORD))):
            said = await refusal(url, ca=keys.ca, user=user, secret=secret)
            assert "redis: the log-in is refused: " in said
        assert "redis: the other side asks for a log-in" in await refusal(url, ca=keys.ca)
        other = url.replace("mail-events", "other")
        said = await refusal(other, ca=keys.ca, user="relay", secret=Secret(PASSWORD))
        assert "the log-in has no right to" in said
        assert "0SAQS2V780G0" not in said  # of the command that was refused nothing is told


# ---------------------------------------------------------------- NATS


async def jet_stream(url: str, **more: Any) -> Any:
    import nats as library

    client = await library.connect(url, **more)
    context = client.jetstream()
    return client, context


@on_uvloop
async def test_nats_by_tls(tmp_path: Path, keys: Keys) -> None:
    port = free_port()
    url = f"natss://{HOST}:{port}/mail.events"
    with nats(tmp_path, port, tls=keys):
        await make_nats_stream(port, keys)
        await taken(url, ca=keys.ca)
        for ca in (keys.other_ca, None):
            assert "nats: the certificate of the other side is not trusted" in await refusal(url, ca=ca)
        elsewhere = url.replace(HOST, "127.0.0.1")
        assert "not trusted: IP address mismatch" in await refusal(elsewhere, ca=keys.ca)
        assert await refusal(url.replace("natss", "nats")) != ""


async def make_nats_stream(port: int, keys: Keys | None, **more: Any) -> None:
    import ssl

    if keys is not None:
        more |= {"tls": ssl.create_default_context(cafile=keys.ca), "tls_hostname": HOST}
        more["tls"].load_cert_chain(*keys.client)
    client, context = await jet_stream(f"nats://{HOST}:{port}", **more)
    await context.add_stream(name="mail", subjects=["mail.>"])
    await client.close()


@on_uvloop
async def test_nats_asks_for_a_client_certificate(tmp_path: Path, keys: Keys) -> None:
    port = free_port()
    url = f"natss://{HOST}:{port}/mail.events"
    with nats(tmp_path, port, tls=keys, verify=True):
        await make_nats_stream(port, keys)
        certificate, key = keys.client
        await taken(url, ca=keys.ca, certificate=certificate, key=key)
        assert "asks for a client certificate" in await refusal(url, ca=keys.ca)
        certificate, key = keys.stranger
        said = await refusal(url, ca=keys.ca, certificate=certificate, key=key)
        assert "does not accept the client certificate" in said


@on_uvloop
async def test_nats_asks_for_a_log_in(tmp_path: Path, keys: Keys) -> None:
    port = free_port()
    url = f"natss://{HOST}:{port}/mail.events"
    rights = '{ publish: ["mail.>", "$JS.API.>"], subscribe: ["_INBOX.>"] }'
    users = f'authorization {{ users: [ {{ user: relay, password: "{PASSWORD}", permissions: {rights} }} ] }}'
    with nats(tmp_path, port, users, tls=keys):
        await make_nats_stream(port, keys, user="relay", password=PASSWORD)
        await taken(url, ca=keys.ca, user="relay", secret=Secret(PASSWORD))
        for more in ({"user": "relay", "secret": Secret(WRONG)}, {"secret": Secret(PASSWORD)}):
            assert "nats: the log-in is refused: " in await refusal(url, ca=keys.ca, **more)
        assert "nats: the other side asks for a log-in" in await refusal(url, ca=keys.ca)
        other = url.replace("mail.events", "other.events")
        assert "the log-in has no right to do so: " in await refusal(
            other, ca=keys.ca, user="relay", secret=Secret(PASSWORD), timeout_s=2.0
        )


@on_uvloop
async def test_nats_asks_for_a_token(tmp_path: Path) -> None:
    port = free_port()
    url = f"nats://127.0.0.1:{port}/mail.events"
    with nats(tmp_path, port, f'authorization {{ token: "{PASSWORD}" }}'):
        await make_nats_stream(port, None, token=PASSWORD)
        await taken(url, secret=Secret(PASSWORD))
        assert "nats: the log-in is refused: " in await refusal(url, secret=Secret(WRONG))
        assert "nats: the other side asks for a log-in" in await refusal(url)


@on_uvloop
async def test_nothing_is_said_to_a_nats_that_does_not_begin_tls() -> None:
    """Who sits in between can take `tls_required` out of what the server says."""
    heard = bytearray()
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.9.10","headers":true,"max_payload":1048576}\r\n')
        heard.extend(await reader.read(4096))
        writer.write(b"PONG\r\n")
        writer.close()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert "nats: " in await refusal(f"natss://127.0.0.1:{port}/mail.events", user="relay", secret=Secret(PASSWORD))
    await ended.wait()
    server.close()
    assert heard[:1] == b"\x16"  # a TLS handshake
    assert b"CONNECT" not in heard


# ---------------------------------------------------------------- Kafka


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Iterator[KafkaBroker]:
    made = KafkaBroker(tmp_path_factory.mktemp("kafka"), keys)
    with made.running():
        yield made


async def records(broker: KafkaBroker, topic: str, count: int) -> list[Any]:
    """What is in a topic, when there is as much."""
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=f"{HOST}:{broker.ports['PLAIN']}", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


@on_uvloop
async def test_a_real_kafka(broker: KafkaBroker) -> None:
    await taken(broker.url("PLAIN", "plain"))
    got = await records(broker, "plain", len(ITEMS))
    assert [json.loads(record.value)["number"] for record in got] == list(range(5))
    assert [record.key for record in got] == [f"0SAQS2V780G0{number}".encode() for number in range(5)]
    assert [dict(record.headers) for record in got] == [{"id": i.key.encode(), "schema": b"1"} for i in ITEMS]


@on_uvloop
async def test_kafka_by_tls(broker: KafkaBroker, keys: Keys) -> None:
    url = broker.url("TLS", "tls")
    await taken(url, ca=keys.ca)
    assert len(await records(broker, "tls", 5)) == 5
    for ca in (keys.other_ca, None):
        assert "kafka: the certificate of the other side is not trusted" in await refusal(url, ca=ca)
    assert "not trusted: IP address mismatch" in await refusal(url.replace(HOST, "127.0.0.1"), ca=keys.ca)
    assert "kafka: " in await refusal(url.replace("kafkas", "kafka"), timeout_s=3.0)


@on_uvloop
async def test_kafka_asks_for_a_client_certificate(broker: KafkaBroker, keys: Keys) -> None:
    url = broker.url("MUTUAL", "mutual")
    certificate, key = keys.client
    await taken(url, ca=keys.ca, certificate=certificate, key=key)
    assert len(await records(broker, "mutual", 5)) == 5
    assert "kafka: the other side asks for a client certificate" in await refusal(url, ca=keys.ca)
    certificate, key = keys.stranger
    said = await refusal(url, ca=keys.ca, certificate=certificate, key=key)
    assert "kafka: the other side does not accept the client certificate" in said


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("listener", ["SASL", "SASL_TLS"])
@on_uvloop
async def test_kafka_asks_for_a_log_in(broker: KafkaBroker, keys: Keys, listener: str, mechanism: str) -> None:
    topic = f"{listener}-{mechanism}"
    url = broker.url(listener, topic)
    log_in: dict[str, Any] = {"user": broker.USER, "mechanism": mechanism}
    if listener == "SASL_TLS":
        log_in["ca"] = keys.ca
    await taken(url, secret=Secret(broker.PASSWORD), **log_in)
    assert len(await records(broker, topic, 5)) == 5
    assert "kafka: the log-in is refused: " in await refusal(url, secret=Secret(WRONG), **log_in)
    log_in["user"] = "nobody"
    assert "kafka: the log-in is refused: " in await refusal(url, secret=Secret(broker.PASSWORD), **log_in)
    without = await refusal(url, ca=log_in.get("ca"))
    assert "it may ask for a log-in, and the stream has none" in without
