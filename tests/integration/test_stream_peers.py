"""Streams to real servers: Redis, NATS with JetStream, and the broker that librdkafka brings for tests."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from angarium.app.stream.sink import Batch, Item, SinkFailure
from angarium.config.check_stream import parse_target
from angarium.config.secret import Secret
from tests.support.ports import free_port
from tests.support.stream import Rig, event_line
from tests.support.stream_peer import nats as nats_server
from tests.support.stream_peer import redis, stream_to

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.peer

ITEMS = tuple(Item(event_line(number, id=f"0SAQS2V780G0{number}")[:-1], f"abc-{number}") for number in range(5))


# ---------------------------------------------------------------- Redis


async def test_redis(tmp_path: Path) -> None:
    from redis.asyncio import Redis

    from angarium.app.stream.redis_stream import RedisStream

    port = free_port()
    url = f"redis://127.0.0.1:{port}/mail-events"
    sink = RedisStream(stream_to(url), parse_target(url))
    with redis(tmp_path, port):
        await sink.send(Batch(ITEMS))
        reader = Redis(port=port)
        entries = await reader.xrange("mail-events")
        assert [fields[b"id"] for _, fields in entries] == [item.key.encode() for item in ITEMS]
        assert [json.loads(fields[b"event"])["number"] for _, fields in entries] == list(range(5))
        assert {fields[b"schema"] for _, fields in entries} == {b"1"}
        await reader.set("mail-events-2", "no stream")
        await reader.aclose()
        wrong = RedisStream(stream_to(f"{url}-2"), parse_target(f"{url}-2"))
        with pytest.raises(SinkFailure, match="WRONGTYPE"):
            await wrong.send(Batch(ITEMS))
        await wrong.close()
    with pytest.raises(SinkFailure, match="redis"):
        await sink.send(Batch(ITEMS))
    with redis(tmp_path, port):
        await sink.send(Batch(ITEMS))  # it is there again
        await sink.close()


async def test_redis_asks_for_a_password(tmp_path: Path) -> None:
    from angarium.app.stream.redis_stream import RedisStream

    port = free_port()
    url = f"redis://127.0.0.1:{port}/mail-events"
    with redis(tmp_path, port, "--requirepass", "open sesame"):
        for secret, taken in ((Secret("wrong"), False), (None, False), (Secret("open sesame"), True)):
            sink = RedisStream(stream_to(url, secret=secret), parse_target(url))
            if taken:
                await sink.send(Batch(ITEMS))
            else:
                with pytest.raises(SinkFailure, match="redis"):
                    await sink.send(Batch(ITEMS))
            await sink.close()


async def test_a_stream_over_a_redis_that_goes_and_comes(tmp_path: Path) -> None:
    from redis.asyncio import Redis

    from angarium.app.stream.redis_stream import RedisStream

    port = free_port()
    url = f"redis://127.0.0.1:{port}/mail-events"
    rig = Rig(tmp_path)
    rig.write(*(event_line(number) for number in range(10)))
    async with rig.running(RedisStream(stream_to(url), parse_target(url)), batch_events=4, retry_first_s=0.05):
        await rig.until(lambda: rig.runner.status().failures > 1)
        with redis(tmp_path, port):
            await rig.until(lambda: rig.runner.status().sent == 10)
            reader = Redis(port=port)
            entries = await reader.xrange("mail-events")
            await reader.aclose()
    assert [json.loads(fields[b"event"])["number"] for _, fields in entries] == list(range(10))


# ---------------------------------------------------------------- NATS


async def test_nats(tmp_path: Path) -> None:
    import nats

    from angarium.app.stream.nats_stream import NatsStream

    port = free_port()
    url = f"nats://127.0.0.1:{port}/mail.events"
    sink = NatsStream(stream_to(url), parse_target(url))
    with pytest.raises(SinkFailure, match="nats"):
        await sink.send(Batch(ITEMS))
    with nats_server(tmp_path, port):
        with pytest.raises(SinkFailure, match="nats"):  # nobody stores the subject
            await sink.send(Batch(ITEMS))
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        jet_stream = client.jetstream()
        await jet_stream.add_stream(name="mail", subjects=["mail.>"])
        await sink.send(Batch(ITEMS))
        await sink.send(Batch(ITEMS[2:]))  # once more: within the window it is dropped
        assert (await jet_stream.stream_info("mail")).state.messages == 5
        subscription = await jet_stream.subscribe("mail.events")
        got = [await subscription.next_msg(timeout=10) for _ in range(5)]
        assert sorted(json.loads(message.data)["number"] for message in got) == list(range(5))
        assert {message.headers["Nats-Msg-Id"] for message in got if message.headers} == {item.key for item in ITEMS}
        huge = Item(event_line(9, text="x" * 2_000_000)[:-1], "huge")
        with pytest.raises(SinkFailure) as failure:
            await sink.send(Batch((huge,)))
        assert failure.value.too_large
        await client.close()
        await sink.close()


# ---------------------------------------------------------------- Kafka


async def test_kafka() -> None:
    """librdkafka's mock cluster is a broker by protocol: it listens on a port and answers whoever speaks Kafka."""
    confluent_kafka = pytest.importorskip("confluent_kafka")

    from angarium.app.stream.kafka_topic import KafkaTopic

    broker = confluent_kafka.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
    found = await asyncio.to_thread(broker.list_topics, timeout=10)
    ((host, port),) = {(one.host, one.port) for one in found.brokers.values()}
    url = f"kafka://{host}:{port}/mail-events"
    sink = KafkaTopic(stream_to(url), parse_target(url))
    await sink.send(Batch(ITEMS))
    await sink.close()
    await sink.send(Batch(ITEMS[:1]))  # it can be used again
    await sink.close()
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": f"{host}:{port}", "group.id": "test", "auto.offset.reset": "earliest"}
    )

    def consume() -> list[Any]:
        parts = [
            confluent_kafka.TopicPartition("mail-events", number, 0)
            for number in consumer.list_topics("mail-events", timeout=10).topics["mail-events"].partitions
        ]
        consumer.assign(parts)
        got: list[Any] = []
        while len(got) < 6:
            record = consumer.poll(10)
            assert record is not None
            assert record.error() is None
            got.append(record)
        return got

    got = await asyncio.to_thread(consume)
    consumer.close()
    records = sorted((json.loads(record.value())["number"], record.key(), dict(record.headers())) for record in got)[1:]
    assert records == [
        (number, f"0SAQS2V780G0{number}".encode(), {"id": f"abc-{number}".encode(), "schema": b"1"})
        for number in range(5)
    ]


async def test_a_kafka_that_is_not_there() -> None:
    from angarium.app.stream.kafka_topic import KafkaTopic

    url = f"kafka://127.0.0.1:{free_port()}/mail-events"
    sink = KafkaTopic(stream_to(url), parse_target(url))
    with pytest.raises(SinkFailure, match="kafka"):
        await sink.send(Batch(ITEMS))
    await sink.close()
