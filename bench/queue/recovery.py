"""How long a worker takes to bring a million queued messages back, with side files and without, cold and warm.

    python -m bench.queue.recovery [--messages 1000000] [--octets 10240] [--domains 100000]
                                   [--folder DIR] [--report FILE]

Makes one shard in DIR with that many deferred messages (an outcome record each), then opens it in fresh processes: with
its side files, and without. Cold: the files were put out of the page cache first (POSIX_FADV_DONTNEED). Needs about
messages × (octets + 600) of disk. The shard is removed at the end; a `DIR/shards` that is there already is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from angarium._core.counters import Slab
from angarium._core.dispatch import Dispatcher
from angarium._core.event_log import EventLog
from angarium._core.journal import CallbackTaker
from angarium._core.outcome_record import encode_outcome
from angarium._core.record import MessageState, RecordType, make_accepted, new_message
from angarium._core.schedule import MessageTable
from angarium._core.segment_index import build_index
from angarium.queue.indexer import Indexer
from angarium.queue.recovery import open_shard

SEGMENT = 64_000_000
REPLY = b"4.3.2 Service not available, closing transmission channel; try again later"


def fill(folder: Path, messages: int, octets: int, domains: int) -> dict[str, float]:
    """Make the shard; how long that and its side files took."""
    slab = Slab.create(1)
    journal, _ = open_shard(
        folder,
        0,
        MessageTable(),
        segment_octets=SEGMENT,
        counters=slab.region(0),
        taker=CallbackTaker(lambda message: None),
        sync_interval_s=3600.0,
    )
    mail_data = b"Subject: a message of the bench\r\n\r\n" + b"x" * (octets - 35)
    began = time.monotonic()
    for number in range(messages):
        envelope = {
            "reverse_path": b"bounce+%d@sender.example" % number,
            "recipients": [(b"recipient%d@domain%d.example" % (number, number % domains), 0, b"")],
            "listener": b"submission",
            "client": b"192.0.2.17",
            "greeting": b"client.example",
            "received_us": int(time.time() * 1e6),
        }
        message = new_message(make_accepted(envelope, mail_data, journal.new_id()))
        journal.append(message, None)
        body = encode_outcome(1, time.time() + 3600.0, [(0, 2, 421, REPLY)], next_hop=b"smtp://192.0.2.1:25")
        journal.append_record(RecordType.RECORD_OUTCOME, message.id, body)
        if number % 1000 == 999:
            journal.sync()  # a group commit
    journal.sync()
    filled = time.monotonic()
    indexer = Indexer([journal], after_s=0.0)
    while (due := indexer.due(0.0)) is not None:
        due[1].index_octets = build_index(due[1], 0)
    indexed = time.monotonic()
    side_octets = sum(segment.index_octets for segment in journal.segments)
    journal.close()
    return {"fill_s": filled - began, "index_s": indexed - filled, "side_file_octets": side_octets}


def recover(folder: Path) -> dict[str, float]:
    """Open the shard as a worker does, and queue what is found."""
    slab = Slab.create(1)
    counters = slab.region(0)
    dispatcher = Dispatcher(counters, EventLog(None, counters))
    before = memory_octets()
    began = time.monotonic()
    journal, report = open_shard(
        folder,
        0,
        dispatcher.table,
        segment_octets=SEGMENT,
        counters=counters,
        taker=dispatcher,
        sync_interval_s=3600.0,
    )
    opened = time.monotonic()
    dispatcher.journals[0] = journal
    for message in list(dispatcher.table):
        if message.state != MessageState.MESSAGE_HELD:
            dispatcher.wait(message, message.next_attempt)
    done = time.monotonic()
    after = memory_octets()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    journal.close()
    return {
        "messages": report.messages,
        "segments": report.segments,
        "side_files_read": report.indexed,
        "open_s": opened - began,
        "queue_s": done - opened,
        "total_s": done - began,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_octets_per_message": (after - before) / max(1, report.messages),
    }


def memory_octets() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make_cold(folder: Path) -> None:
    """Put the files of folder out of the page cache."""
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def in_fresh_process(folder: Path) -> dict[str, float]:
    """What `recover` measures in a process of its own."""
    command = [sys.executable, "-m", "bench.queue.recovery", "--recover", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def measure(messages: int, octets: int, domains: int, where: Path) -> dict[str, object]:
    """Everything for one size of message."""
    folder = where / "shards" / "000"
    folder.mkdir(parents=True)
    try:
        report: dict[str, object] = {"messages": messages, "octets": octets, "domains": domains}
        report |= fill(folder, messages, octets, domains)
        report["disk_octets"] = sum(path.stat().st_size for path in folder.iterdir())
        for cold in (True, False):
            if cold:
                make_cold(folder)
            report[f"with side files, {'cold' if cold else 'warm'}"] = in_fresh_process(folder)
        for path in folder.glob("*.index"):
            path.unlink()
        make_cold(folder)
        report["without side files, cold"] = in_fresh_process(folder)
        return report
    finally:
        shutil.rmtree(where / "shards")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--octets", type=int, default=10_240)
    parser.add_argument("--domains", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; a temporary folder by default")
    parser.add_argument("--report", type=Path, help="where the figures go as JSON; standard output by default")
    parser.add_argument("--recover", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.recover:
        print(json.dumps(recover(options.recover)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        where = options.folder or Path(temporary)
        report = measure(options.messages, options.octets, options.domains, where)
    text = json.dumps(report, indent=2) + "\n"
    if options.report:
        options.report.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
