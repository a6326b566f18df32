"""Open a shard: read its segments, bring back every message that is not done, and give its journal.

Input: the shard's folder. Output: a Journal that continues it, the messages in the table, and a report.

The segments are read from the oldest that was alive to the youngest. Of the two youngest everything is verified, mail
data included, because a crash may have torn what was being written; of the others the index data alone is read, from
the side file if there is one (cext/segment_index.pyx).

Fails: OSError when the folder or a file cannot be read. A torn or harmed record costs that record and is in the report.
One behind which sound records stand, or in a segment that was full, is damage, not the end of what was written: what
can be read of it is kept aside (queue/damaged.py). Its message is written off in the journal then, because the next
recovery may not look at its mail data any more; the same goes for what was torn.
A file whose header is harmed, of another version or of another shard is left alone and is in the report: it may hold
mail.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from angarium._core.counters import Counters
from angarium._core.disk import Disk
from angarium._core.journal import Journal, Segment, Taker, read_segment_header
from angarium._core.ledger import Ledger
from angarium._core.record import RecordType, format_id
from angarium._core.recovery import read_in_flight, scan_segment
from angarium._core.schedule import MessageTable
from angarium._core.segment_index import index_path, read_index
from angarium.queue.damaged import Damage, keep_aside

_HEADER_OCTETS = 4096
_VERIFIED_SEGMENTS = 2
_Damaged = dict[int, tuple[Segment, int, int, str]]  # as SegmentScan.damaged


@dataclass
class RecoveryReport:
    """What was found in one shard."""

    shard: int
    messages: int = 0
    segments: int = 0
    harmed: list[str] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    indexed: int = 0  # segments of which the side file was read
    in_doubt: list[int] = field(default_factory=list)
    lost_memory: int = 0  # recipients of class memory that went with the process
    missing: int = 0  # recipients that should have been queued: damage
    unexpected: int = 0  # recipients that were not counted as queued, and are


def open_shard(
    folder: Path,
    shard: int,
    table: MessageTable,
    *,
    segment_octets: int,
    counters: Counters,
    taker: Taker,
    sync_interval_s: float,
    disk: Disk | None = None,
    aside: Path | None = None,
) -> tuple[Journal, RecoveryReport]:
    """Recover what is in folder into table and open its journal; damaged records are kept in aside (None: nowhere)."""
    report = RecoveryReport(shard)
    disk = disk or Disk()
    alive, spares, report.harmed = _read_folder(disk, folder, shard, segment_octets)
    before = len(table)
    recipients_before = table.recipients
    ledger = Ledger()
    last_id = 0
    damaged: _Damaged = {}
    for position, segment in enumerate(alive):
        whole = len(alive) - position <= _VERIFIED_SEGMENTS
        index = None if whole else read_index(disk, index_path(segment.path), shard, segment.serial)
        scan = scan_segment(segment, table, whole, ledger, damaged, index)
        segment.seal()
        if index is not None:
            segment.index_octets = len(index[1])
            report.indexed += 1
        last_id = max(last_id, scan.last_id)
    report.harmed += [f"{where.path}: {why} ({n} octets at {offset})" for where, offset, n, why in damaged.values()]
    report.harmed += _sync(disk, folder, alive[-_VERIFIED_SEGMENTS:])
    report.messages = len(table) - before
    report.segments = len(alive)
    queued = table.recipients - recipients_before - ledger.counted
    report.lost_memory, report.missing, report.unexpected = ledger.settle(queued)
    found = [table.get(number) for number in read_in_flight(str(folder / "in-flight"), disk)]
    in_doubt = [message for message in found if message is not None]
    report.in_doubt = [message.id for message in in_doubt]
    serial = max((segment.serial for segment in alive + spares), default=0)
    journal = Journal(
        str(folder),
        shard,
        segment_octets,
        counters,
        taker,
        segments=alive,
        spares=spares,
        next_serial=serial + 1,
        last_id=last_id,
        sync_interval_s=sync_interval_s,
        in_doubt=in_doubt,
        disk=disk,
        ledger=ledger,
    )
    lost = {number: found for number, found in damaged.items() if number < 0 or table.get(number) is None}
    _write_off(journal, lost, alive[-1] if alive else None, report, aside)
    return journal, report


def _write_off(
    journal: Journal, damaged: _Damaged, youngest: Segment | None, report: RecoveryReport, aside: Path | None
) -> None:
    """Keep aside what is damaged, and have the journal say for good that its messages are gone."""
    written_off = 0
    for number, (segment, offset, octets, why) in damaged.items():
        # with nothing sound behind it in the segment that grew last it is the end of what was written, and not ours
        if segment is not youngest or offset + octets < segment.used:
            damage = Damage(number, segment.path, segment.serial, offset, octets, why)
            if aside is not None:
                try:
                    damage = keep_aside(aside, number, segment, offset, octets, why)
                except OSError as failure:
                    report.harmed.append(f"{damage.name} cannot be kept aside: {failure}")
                    continue  # it is found again at the next start
            report.damaged.append(damage)
        if number > 0:
            try:
                journal.append_record(RecordType.RECORD_DONE, number, b"")
                written_off += 1
            except OSError as failure:
                report.harmed.append(f"{format_id(number)} cannot be written off: {failure}")
    if written_off:
        try:
            journal.sync()
        except OSError as failure:
            report.harmed.append(f"shard {journal.shard} cannot be written: {failure}")


def _sync(disk: Disk, folder: Path, youngest: list[Segment]) -> list[str]:
    """What a process that was killed had written and not synced is ours from now on; returns what failed."""
    failures = []
    for segment in youngest:
        try:
            disk.sync_data(segment.fileno)
        except OSError as failure:
            failures.append(f"{segment.path} cannot be synced: {failure.strerror}")
    fd = disk.open_file(str(folder), os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.sync_folder(fd)
    except OSError as failure:
        failures.append(f"{folder} cannot be synced: {failure.strerror}")
    finally:
        disk.close_file(fd)
    return failures


def _read_folder(
    disk: Disk, folder: Path, shard: int, segment_octets: int
) -> tuple[list[Segment], list[Segment], list[str]]:
    """(segments that may hold something alive, files that can be used again, what is strange), in order of serial."""
    found: list[tuple[int, Segment]] = []
    strange: list[str] = []
    oldest_alive = 0
    names = disk.list_folder(str(folder))
    for name in names:
        if not name.endswith(".segment"):
            continue
        path = str(folder / name)
        fd = disk.open_file(path, os.O_RDWR)
        size = disk.size(fd)
        block = disk.read_at(fd, _HEADER_OCTETS, 0)
        header = read_segment_header(block)
        if header is None and not any(block):  # made, and never used
            found.append((0, Segment(path, fd, 0, size, 0, disk)))
            continue
        if header is None or header[0] != shard:
            disk.close_file(fd)
            strange.append(f"{path}: no header of this version and shard, the file is left alone")
            continue
        oldest_alive = max(oldest_alive, header[2])
        found.append((header[1], Segment(path, fd, header[1], size, 0, disk)))
    found.sort(key=lambda entry: entry[0])
    alive = [segment for serial, segment in found if serial and serial >= oldest_alive]
    indexed = {index_path(segment.path) for segment in alive}
    for name in names:
        if name.endswith(".index") and str(folder / name) not in indexed:
            disk.unlink_file(str(folder / name))
    spares = []
    for serial, segment in found:
        if serial and serial >= oldest_alive:
            continue
        if segment.size == segment_octets:
            spares.append(segment)
        else:
            disk.unlink_file(segment.path)
    return alive, spares, strange
