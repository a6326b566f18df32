"""Counters in shared memory: what one process counts, every other reads, and a dead worker holds nothing."""

import ipaddress
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium._core.counters import (
    Counters,
    Dimension,
    Slab,
    Slot,
    bucket_bounds_us,
    client_key,
    has_exemplars,
    is_gauge,
    is_histogram,
    most_rows,
    reserved_names,
    rows_of,
)

TABLE = 8192
WINDOW = 64


@pytest.fixture
def slab() -> Iterator[Slab]:
    slab = Slab.create(3)
    yield slab
    slab.close()


def histogram(counters: Counters, base: Slot) -> tuple[list[int], int]:
    buckets = len(bucket_bounds_us()) + 1
    return [counters.value(base + i) for i in range(buckets)], counters.value(base + buckets)


def test_totals_sum_what_every_region_counted(slab: Slab) -> None:
    slab.region(0).add(Slot.INGRESS_OCTETS, 5)
    slab.region(2).add(Slot.INGRESS_OCTETS, 7)
    slab.region(2).add(Slot.INGRESS_OCTETS, 1)
    assert [slab.values(i)[Slot.INGRESS_OCTETS] for i in range(3)] == [5, 0, 8]
    assert slab.total(Slot.INGRESS_OCTETS) == 13
    assert slab.totals()[Slot.INGRESS_OCTETS] == 13
    assert slab.region(1).node_total(Slot.INGRESS_OCTETS) == 13
    assert sum(slab.totals()) == 13


def test_a_gauge_goes_up_and_down_and_can_be_set(slab: Slab) -> None:
    counters = slab.region(1)
    counters.add(Slot.INGRESS_CONNECTIONS, 3)
    counters.sub(Slot.INGRESS_CONNECTIONS, 2)
    assert counters.value(Slot.INGRESS_CONNECTIONS) == 1
    counters.set(Slot.INGRESS_CONNECTIONS, 2**63)
    assert counters.value(Slot.INGRESS_CONNECTIONS) == 2**63


def test_every_bound_belongs_to_its_own_bucket(slab: Slab) -> None:
    bounds = bucket_bounds_us()
    assert list(bounds) == sorted(set(bounds))
    assert bounds[0] == 100
    for bucket, bound in enumerate(bounds):
        counters = Slab.create(1).region(0)
        counters.observe(Slot.QUEUE_SYNC_LATENCY, bound)
        counters.observe(Slot.QUEUE_SYNC_LATENCY, bound + 1)
        counts, total = histogram(counters, Slot.QUEUE_SYNC_LATENCY)
        assert [i for i, n in enumerate(counts) if n] == [bucket, bucket + 1]
        assert total == 2 * bound + 1


def test_durations_beyond_all_bounds_and_of_nothing_are_counted(slab: Slab) -> None:
    counters = slab.region(0)
    counters.observe(Slot.LOOP_LAG, 0)
    counters.observe(Slot.LOOP_LAG, 10**12)
    counts, total = histogram(counters, Slot.LOOP_LAG)
    assert counts[0] == counts[-1] == 1
    assert sum(counts) == 2
    assert total == 10**12


@pytest.mark.parametrize("slot", [-1, 8192])
def test_a_slot_out_of_range_is_refused(slab: Slab, slot: int) -> None:
    counters = slab.region(0)
    for use in (counters.value, counters.node_total, slab.total):
        with pytest.raises(IndexError):
            use(slot)
    for change in (counters.add, counters.sub, counters.set, counters.observe):
        with pytest.raises(IndexError):
            change(slot, 1)


@pytest.mark.parametrize("slot", [Slot.INGRESS_OCTETS, Slot.LOOP_LAG + 1, 511, Slot.QUEUE_AGE, Slot.PROVIDER_FAILED])
def test_only_a_histogram_can_be_observed(slab: Slab, slot: int) -> None:
    with pytest.raises(IndexError, match="no histogram"):
        slab.region(0).observe(slot, 1)


@pytest.mark.parametrize("region", [-1, 3])
def test_a_region_out_of_range_is_refused(slab: Slab, region: int) -> None:
    with pytest.raises(IndexError):
        slab.region(region)
    with pytest.raises(IndexError):
        slab.values(region)


def test_slots_are_of_the_kind_that_their_number_says() -> None:
    members = Slot.__members__
    assert len(set(members.values())) == len(members)
    histograms = {name for name, slot in members.items() if is_histogram(slot)}
    assert histograms == {name for name, slot in members.items() if 512 <= slot < 2048} | {"QUEUE_AGE"}
    assert all(slot < 128 or 2048 <= slot < 4096 for slot in members.values() if is_gauge(slot))
    assert not [name for name, slot in members.items() if slot >= 8192]
    assert {name for name, slot in members.items() if has_exemplars(slot)} == {
        name for name, slot in members.items() if 512 <= slot < 512 + 10 * 32
    }


# ------------------------------------------------------------------ rows


@pytest.mark.parametrize("dimension", [one for one in Dimension if one is not Dimension.DIMENSION_SHARD])
def test_a_name_keeps_its_row_whatever_comes_and_goes(slab: Slab, dimension: Dimension) -> None:
    counters = slab.region(0)
    reserved = reserved_names(dimension)
    assert slab.assign(dimension, ["a", "b"]) == []
    counters.read_labels()
    rows = {name: counters.row(dimension, name.encode()) for name in "ab"}
    assert slab.assign(dimension, ["c", "b"]) == []
    assert slab.assign(dimension, []) == []
    counters.read_labels()
    assert {name: counters.row(dimension, name.encode()) for name in "ab"} == rows
    assert slab.labels(dimension) == [*reserved, "a", "b", "c"]
    assert [slab.labels(dimension)[row] for row in rows.values()] == ["a", "b"]


def test_another_process_sees_the_names(slab: Slab) -> None:
    slab.assign(Dimension.DIMENSION_TENANT, ["shop"])
    attached = Slab.attach(slab.fd)
    assert attached.region(1).row(Dimension.DIMENSION_TENANT, b"shop") == attached.labels(
        Dimension.DIMENSION_TENANT
    ).index("shop")


def test_names_are_known_when_they_have_been_read(slab: Slab) -> None:
    counters = slab.region(0)
    slab.assign(Dimension.DIMENSION_PROVIDER, ["late"])
    assert counters.row(Dimension.DIMENSION_PROVIDER, b"late") == 0
    counters.read_labels()
    assert counters.row(Dimension.DIMENSION_PROVIDER, b"late") == 1


@pytest.mark.parametrize(
    ("dimension", "most"),
    [
        (Dimension.DIMENSION_PROVIDER, 50),
        (Dimension.DIMENSION_TENANT, 200),
        (Dimension.DIMENSION_LISTENER, 63),
        (Dimension.DIMENSION_SOURCE, 126),
        (Dimension.DIMENSION_POOL, 62),
    ],
)
def test_what_finds_no_row_is_counted_with_others_and_named(slab: Slab, dimension: Dimension, most: int) -> None:
    names = [f"name-{i}" for i in range(most + 3)]
    assert slab.assign(dimension, names) == names[most:]
    assert len(slab.labels(dimension)) == most_rows(dimension) <= rows_of(dimension)
    counters = slab.region(0)
    known = [counters.row(dimension, name.encode()) for name in names[:most]]
    assert len(set(known)) == most
    others = {slab.labels(dimension)[counters.row(dimension, name.encode())] for name in names[most:]}
    assert others <= set(reserved_names(dimension))
    assert not others & {"none", "default"}


def test_a_tenants_row_by_hash_is_the_same_in_every_process_and_not_that_of_mail_without_one(slab: Slab) -> None:
    names = [f"tenant-{i}".encode() for i in range(1000)]
    rows = [slab.region(0).row(Dimension.DIMENSION_TENANT, name) for name in names]
    assert rows == [slab.region(2).row(Dimension.DIMENSION_TENANT, name) for name in names]
    assert set(rows) == set(range(1, 17))
    assert slab.region(0).row(Dimension.DIMENSION_TENANT, b"") == 0


def test_a_name_that_is_too_long_or_reserved_has_no_row_of_its_own(slab: Slab) -> None:
    assert slab.assign(Dimension.DIMENSION_TENANT, ["x" * 72, "none", "y" * 71]) == ["x" * 72]
    assert slab.labels(Dimension.DIMENSION_TENANT)[17:] == ["y" * 71]


def test_shards_are_numbers(slab: Slab) -> None:
    slab.assign(Dimension.DIMENSION_SHARD, range(3))
    assert slab.labels(Dimension.DIMENSION_SHARD) == ["0", "1", "2"]


@pytest.mark.parametrize("dimension", [-1, 6])
def test_a_dimension_out_of_range_is_refused(slab: Slab, dimension: int) -> None:
    for use in (slab.labels, rows_of, most_rows, reserved_names):
        with pytest.raises(IndexError):
            use(dimension)


# ------------------------------------------------------------------ exemplars


def test_the_newest_exemplar_of_all_workers_is_read(slab: Slab) -> None:
    assert slab.exemplar(Slot.INGRESS_COMMIT_LATENCY, 0) is None
    slab.region(0).observe_message(Slot.INGRESS_COMMIT_LATENCY, 40, 7)
    slab.region(2).observe_message(Slot.INGRESS_COMMIT_LATENCY, 60, 8)
    found = slab.exemplar(Slot.INGRESS_COMMIT_LATENCY, 0)
    assert found is not None
    assert found[:2] == (8, 60)
    assert slab.exemplar(Slot.INGRESS_COMMIT_LATENCY, 1) is None
    assert histogram(slab.region(0), Slot.INGRESS_COMMIT_LATENCY)[0][0] == 1


@pytest.mark.parametrize(("slot", "bucket"), [(Slot.LOOP_LAG, 0), (Slot.INGRESS_COMMIT_LATENCY, 25), (1, 0)])
def test_only_some_histograms_have_exemplars(slab: Slab, slot: int, bucket: int) -> None:
    with pytest.raises(IndexError):
        slab.exemplar(slot, bucket)
    if not has_exemplars(slot):
        with pytest.raises(IndexError):
            slab.region(0).observe_message(slot, 1, 1)


def test_an_exemplar_is_read_whole_while_it_is_written(slab: Slab) -> None:
    code = """if True:
        import sys
        from angarium._core.counters import Slab, Slot
        counters = Slab.attach(int(sys.argv[1])).region(1)
        print("ready", flush=True)
        number = 0
        while True:
            number += 1
            counters.observe_message(Slot.INGRESS_COMMIT_LATENCY, number % 50, 50 + number % 50)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code, str(slab.fd)], pass_fds=[slab.fd], stdout=subprocess.PIPE
    ) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            seen = set()
            while len(seen) < 50:
                found = slab.exemplar(Slot.INGRESS_COMMIT_LATENCY, 0)
                if found is not None:
                    assert found[0] == found[1] + 50
                    seen.add(found[0])
        finally:
            writer.kill()


def test_a_worker_that_died_while_it_wrote_costs_its_exemplar_until_the_next_one(slab: Slab) -> None:
    counters = slab.region(0)
    before = os.pread(slab.fd, os.fstat(slab.fd).st_size, 0)
    counters.observe_message(Slot.INGRESS_COMMIT_LATENCY, 40, 0x1234567890)
    after = os.pread(slab.fd, len(before), 0)
    where = after.index((0x1234567890).to_bytes(8, "little")) - 8
    assert after[where] == 2
    os.pwrite(slab.fd, b"\x01", where)
    assert slab.exemplar(Slot.INGRESS_COMMIT_LATENCY, 0) is None
    counters.observe_message(Slot.INGRESS_COMMIT_LATENCY, 41, 9)
    found = slab.exemplar(Slot.INGRESS_COMMIT_LATENCY, 0)
    assert found is not None
    assert found[:2] == (9, 41)


@pytest.mark.parametrize("regions", [0, -1, 4097])
def test_a_slab_has_a_sensible_number_of_regions(regions: int) -> None:
    with pytest.raises(ValueError, match="regions"):
        Slab.create(regions)


@pytest.mark.parametrize("make", [Slab, Counters])
def test_neither_class_can_be_made_by_hand(make: type) -> None:
    with pytest.raises(TypeError):
        make()


def test_another_process_counts_in_the_same_memory(slab: Slab) -> None:
    script = (
        "import sys, os\n"
        "from angarium._core.counters import Slab, Slot\n"
        "fd = int(sys.argv[1])\n"
        "slab = Slab.attach(fd)\n"
        "os.close(fd)\n"
        "worker = slab.region(1)\n"
        "worker.add(Slot.QUEUE_COMMITS_TOTAL, slab.total(Slot.QUEUE_COMMITS_TOTAL) + 1)\n"
        "print(worker.client_opened(99))\n"
    )
    slab.region(0).add(Slot.QUEUE_COMMITS_TOTAL, 4)
    assert slab.region(0).client_opened(99) == 1
    done = subprocess.run(
        [sys.executable, "-c", script, str(slab.fd)], pass_fds=[slab.fd], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "2"
    assert slab.total(Slot.QUEUE_COMMITS_TOTAL) == 9
    assert slab.region(0).client_connections(99) == 2


def test_counters_stay_usable_after_the_slab_is_closed() -> None:
    slab = Slab.create(1)
    counters = slab.region(0)
    slab.close()
    assert slab.fd == -1
    slab.close()
    del slab
    counters.add(Slot.OUTCOME_EVENTS, 2)
    assert counters.node_total(Slot.OUTCOME_EVENTS) == 2


def test_attach_leaves_the_descriptor_to_its_owner(slab: Slab) -> None:
    attached = Slab.attach(slab.fd)
    attached.close()
    os.fstat(slab.fd)
    assert attached.total(Slot.OUTCOME_EVENTS) == 0


def test_attach_refuses_what_is_no_slab(slab: Slab) -> None:
    fd = os.memfd_create("other")
    try:
        with pytest.raises(ValueError, match="not a slab"):
            Slab.attach(fd)
        os.ftruncate(fd, 1 << 20)
        with pytest.raises(ValueError, match="not a slab"):
            Slab.attach(fd)
        copy = os.pread(slab.fd, 1 << 20, 0)
        os.pwrite(fd, copy[:8] + b"\xff\0\0\0" + copy[12:], 0)
        os.ftruncate(fd, len(copy))
        with pytest.raises(ValueError, match="another release"):
            Slab.attach(fd)
        os.pwrite(fd, copy, 0)
        os.ftruncate(fd, len(copy) - 4096)
        with pytest.raises(ValueError, match="another release"):
            Slab.attach(fd)
    finally:
        os.close(fd)


def test_nobody_can_shrink_the_memory_under_its_readers(slab: Slab) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(slab.fd, 4096)


def test_threads_of_one_process_lose_no_count(slab: Slab) -> None:
    counters = slab.region(0)
    start = threading.Barrier(4)

    def count() -> None:
        start.wait()
        for _ in range(20_000):
            counters.add(Slot.QUEUE_SYNCS_TOTAL, 1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.value(Slot.QUEUE_SYNCS_TOTAL) == 80_000


def test_connections_of_a_client_are_counted_over_all_workers(slab: Slab) -> None:
    first, second = slab.region(0), slab.region(1)
    assert [first.client_opened(5), second.client_opened(5), first.client_opened(5)] == [1, 2, 3]
    assert second.client_opened(6) == 1
    first.client_closed(5)
    assert second.client_connections(5) == 2
    first.client_closed(5)
    second.client_closed(5)
    assert first.client_connections(5) == 0
    assert first.client_connections(6) == 1


def test_closing_what_was_never_opened_takes_nothing_away(slab: Slab) -> None:
    counters = slab.region(0)
    counters.client_closed(5)
    assert counters.client_opened(5) == 1
    slab.region(1).client_closed(5)
    assert counters.client_connections(5) == 1


def test_nobody_is_not_a_client(slab: Slab) -> None:
    counters = slab.region(0)
    assert counters.client_opened(0) == 0
    counters.client_closed(0)
    assert counters.client_connections(0) == 0


def test_a_full_table_counts_the_rest_under_one_key(slab: Slab) -> None:
    worker, other = slab.region(0), slab.region(1)
    clients = range(1, 2 * TABLE + 1)
    for client in clients:
        worker.client_opened(client)
    full = worker.value(Slot.INGRESS_CLIENT_TABLE_FULL)
    placed = [client for client in clients if worker.client_connections(client)]
    assert len(placed) + full == len(clients)
    assert len(placed) > TABLE * 9 // 10
    # the next client without a place shares its count with all others without one, over all workers
    for client in clients:
        other.client_opened(client)
    other_full = other.value(Slot.INGRESS_CLIENT_TABLE_FULL)
    stranger = next(key for key in range(10**6, 10**7) if other.client_opened(key) > 2)
    other.client_closed(stranger)
    assert other.client_opened(stranger) == full + other_full + 1
    other.client_closed(stranger)
    # known clients keep their own count, and all can go again
    assert worker.client_opened(placed[0]) >= 2
    worker.client_closed(placed[0])
    for client in clients:
        worker.client_closed(client)
    other.reset_gauges()
    assert not [client for client in clients if worker.client_connections(client)]
    assert worker.client_opened(1) == 1


def test_counts_hold_while_many_clients_come_and_go(slab: Slab) -> None:
    worker = slab.region(0)
    open_clients: list[int] = []
    for key in range(1, 6 * TABLE):
        assert worker.client_opened(key) == 1
        open_clients.append(key)
        if len(open_clients) > 500:
            worker.client_closed(open_clients.pop((key * 7919) % len(open_clients)))
    assert worker.value(Slot.INGRESS_CLIENT_TABLE_FULL) == 0
    assert all(worker.client_connections(key) == 1 for key in open_clients)


@given(
    st.lists(
        st.tuples(st.sampled_from(["open", "close", "restart"]), st.integers(0, 2), st.integers(1, 6)), max_size=80
    )
)
def test_the_client_table_counts_as_a_plain_dictionary_would(steps: list[tuple[str, int, int]]) -> None:
    slab = Slab.create(3)
    workers = [slab.region(i) for i in range(3)]
    model: list[Counter[int]] = [Counter(), Counter(), Counter()]
    for step, worker, client in steps:
        if step == "open":
            model[worker][client] += 1
            assert workers[worker].client_opened(client) == sum(part[client] for part in model)
        elif step == "close" and model[worker][client]:
            model[worker][client] -= 1
            workers[worker].client_closed(client)
        elif step == "restart":
            model[worker].clear()
            workers[worker].reset_gauges()
    for client in range(1, 7):
        assert workers[0].client_connections(client) == sum(part[client] for part in model)
    assert slab.total(Slot.INGRESS_CLIENT_TABLE_FULL) == 0
    slab.close()


def test_workers_that_open_at_once_never_exceed_a_limit_together(slab: Slab) -> None:
    script = (
        "import sys\n"
        "from angarium._core.counters import Slab\n"
        "worker = Slab.attach(int(sys.argv[1])).region(int(sys.argv[2]))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "held = 0\n"
        "for _ in range(20_000):\n"
        "    if worker.client_opened(7) <= 100:\n"
        "        held += 1\n"
        "    else:\n"
        "        worker.client_closed(7)\n"
        "print(held)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(slab.fd), str(i)],
            pass_fds=[slab.fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    held = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(held) == slab.region(0).client_connections(7)
    assert 90 <= sum(held) <= 100


def test_a_worker_that_starts_again_holds_nothing_and_keeps_its_counters(slab: Slab) -> None:
    worker = slab.region(0)
    worker.add(Slot.INGRESS_CONNECTIONS, 4)
    worker.add(Slot.INGRESS_CONNECTIONS_TOTAL, 4)
    worker.observe(Slot.INGRESS_COMMIT_LATENCY, 100)
    worker.client_opened(5)
    slab.region(1).client_opened(5)
    slab.region(0).reset_gauges()
    assert worker.value(Slot.INGRESS_CONNECTIONS) == 0
    assert worker.value(Slot.INGRESS_CONNECTIONS_TOTAL) == 4
    assert histogram(worker, Slot.INGRESS_COMMIT_LATENCY)[0][0] == 1
    assert worker.client_connections(5) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::1", "0.0.0.0", False),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_subnet(one: str, other: str, same: bool) -> None:
    first, second = (client_key(ipaddress.ip_address(text).packed) for text in (one, other))
    assert first
    assert second
    assert (first == second) is same


def test_clients_without_an_address_are_one_client() -> None:
    assert client_key(b"") == client_key(b"a socket") != client_key(b"\0\0\0\0")
