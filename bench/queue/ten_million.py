"""Ten million queued messages: what they cost in memory, on disk and at a start.

No SMTP and no waiting: the compiled journal, table and schedule are driven directly, as a worker drives them, with
small messages and a clock that is only a number. One process stands for each worker, with one shard of its own:

    fill      every message is appended to the journal and synced, gets the outcome record of a deferral, leaves the
              memory but for its entry, and waits in the scheduled queue of its domain
    pass      the clock is set past the last retry: every message is taken from its queue and waits again
    recover   another process opens the shard and lets everything wait, as at a start

    python -m bench.queue.ten_million fill|recover '{"folder": "…", "shard": 0, "messages": 5000000, …}'
"""

from __future__ import annotations

import json
import select
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.load.accounting import pss_octets

from .node import used_octets
from .program import Program

if TYPE_CHECKING:
    from angarium._core.journal import Journal

    from .stand import Stand

START_S = 1_800_000_000.0
MESSAGES_PER_S = 115.0  # ten million a day
RETRY_S = 3_600.0
BATCH = 2_000
STEP = 1_000  # messages of a pass between two looks at the clock
SEGMENT_OCTETS = 64_000_000
REPLY = b"4.3.0 Error: command failed"
COMMIT_S = 60_000


@dataclass(frozen=True)
class Plan:
    folder: str
    shard: int
    messages: int
    domains: int
    octets: int


def own_pss() -> int:
    import os

    return pss_octets(os.getpid())


def open_journal(plan: Plan, taken: list[Any]) -> tuple[Journal, Any, Any]:
    from angarium._core.counters import Slab
    from angarium._core.journal import CallbackTaker
    from angarium._core.schedule import MessageTable
    from angarium.queue.recovery import open_shard

    slab = Slab.create(1)
    table = MessageTable()
    folder = Path(plan.folder)
    folder.mkdir(parents=True, exist_ok=True)
    journal, report = open_shard(
        folder,
        plan.shard,
        table,
        segment_octets=SEGMENT_OCTETS,
        counters=slab.region(0),
        taker=CallbackTaker(taken.append),
        sync_interval_s=1.0,
    )
    slab.close()  # the memory stays
    return journal, table, report


def settle(journal: Journal) -> None:
    """Until everything appended is on disk."""
    poll = select.poll()
    poll.register(journal.event_fd, select.POLLIN)
    while journal.waiting:
        if not poll.poll(COMMIT_S):
            raise TimeoutError("the commit thread said nothing")
        journal.on_commit()


def fill(plan: Plan) -> dict[str, Any]:
    from angarium._core.journal import CallbackReceiver
    from angarium._core.record import RecipientState, make_accepted, new_message

    taken: list[Any] = []
    journal, table, _ = open_journal(plan, taken)
    schedule = table.schedule
    receiver = CallbackReceiver(lambda message, error: None)
    body = b"Subject: bench\r\n\r\n" + b"x" * max(2, plan.octets - 22) + b"\r\n"
    before = own_pss()
    began = time.monotonic()
    now = START_S
    for first in range(0, plan.messages, BATCH):
        for number in range(first, min(first + BATCH, plan.messages)):
            now = START_S + number / MESSAGES_PER_S
            envelope = {
                "reverse_path": b"sender@src.example",
                "recipients": [(b"u%d@d%d.many.example" % (number, number % plan.domains), 0, b"")],
                "received_us": int(now * 1e6),
            }
            journal.append(new_message(make_accepted(envelope, body, journal.new_id())), receiver)
        journal.kick()
        settle(journal)
        for message in taken:
            at = message.received_us * 1e-6 + RETRY_S
            table.insert(message)
            schedule.assign(message)
            journal.append_outcome(
                message,
                [(0, RecipientState.RECIPIENT_DEFERRED, 450, REPLY)],
                attempted=now,
                attempt=1,
                next_attempt=at,
                next_hop=b"smtp://192.0.2.1:25",
            )
            message.set_recipient_state(0, RecipientState.RECIPIENT_DEFERRED)
            message.set_attempts(1)
            message.buffer = None
            schedule.wait(message, at)
        taken.clear()
        journal.flush()
    filled = time.monotonic() - began
    after = own_pss()
    result = {
        "fill_s": filled,
        "pss_empty": before,
        "pss_full": after,
        "octets_per_message": (after - before) / plan.messages,
        "queues": len(schedule.queues),
        **retry_pass(schedule, now + 2 * RETRY_S),
    }
    if result["passed"] != plan.messages:
        raise SystemExit(f"{result['passed']} of {plan.messages} messages were due")
    journal.close()
    result["disk_octets"] = used_octets(Path(plan.folder))
    return result


def retry_pass(schedule: Any, now: float) -> dict[str, Any]:
    """Everything is due: out of its queue, and back into it."""
    count = 0
    longest = 0.0
    began = mark = time.monotonic()
    while (queue := schedule.pop_due(now)) is not None:
        while (message := schedule.take_from(queue, now)) is not None:
            schedule.wait(message, now + RETRY_S)
            count += 1
            if count % STEP == 0:
                at = time.monotonic()
                longest, mark = max(longest, at - mark), at
        schedule.settle(queue)
    return {"passed": count, "pass_s": time.monotonic() - began, "longest_step_s": longest}


def recover(plan: Plan) -> dict[str, Any]:
    before = own_pss()
    began = time.monotonic()
    journal, table, report = open_journal(plan, [])
    opened = time.monotonic() - began
    schedule = table.schedule
    position = 0
    while position < table.capacity:
        messages, position = table.batch(position, 65_536)
        for message in messages:
            schedule.wait(message, message.next_attempt)
    waiting = time.monotonic() - began
    result = {
        "found": report.messages,
        "harmed": len(report.harmed),
        "open_s": opened,
        "start_s": waiting,
        "pss_octets": own_pss() - before,
    }
    journal.close()
    return result


def run(stand: Stand) -> dict[str, Any]:
    """One process a worker, all at once, first to fill and then to recover."""
    sizes = stand.sizes
    workers = stand.ground.workers
    folder = stand.ground.spool.folder / "ten-million"
    share = sizes.huge_messages // workers
    plans = [
        Plan(str(folder / str(n)), n, share, max(1, sizes.huge_domains // workers), sizes.huge_octets)
        for n in range(workers)
    ]
    try:
        filled = in_parallel("fill", plans, sizes.limit_s * 4)
        stand.say(f"ten million: filled, {filled[0]['octets_per_message']:.0f} octets of memory a message")
        found = in_parallel("recover", plans, sizes.limit_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    messages = share * workers
    whole = sum(each["found"] for each in found) == messages
    stand.say(f"ten million: recovered in {max(each['start_s'] for each in found):.1f} s, {whole=}")
    return {
        "messages": messages,
        "whole": whole,
        "how": [
            f"In {workers} processes, one for each worker, {share:,} messages of {sizes.huge_octets} octets each to",
            f"{plans[0].domains:,} domains; the compiled journal, table and schedule driven directly, a clock that is",
            f"only a number. After the restart {'all of them' if whole else '**not all of them**'} were there.",
        ],
        "fill": filled,
        "recovery": found,
        "figures": {
            "memory_a_message,_octets": max(each["octets_per_message"] for each in filled),
            "memory_of_all_workers,_MB": sum(each["pss_full"] for each in filled) / 1e6,
            "scheduled_queues_of_a_worker": float(filled[0]["queues"]),
            "disk,_MB": sum(each["disk_octets"] for each in filled) / 1e6,
            "disk_a_message,_octets": sum(each["disk_octets"] for each in filled) / messages,
            "retry_pass_through_the_schedule,_messages_a_second_and_worker": min(
                each["passed"] / each["pass_s"] for each in filled
            ),
            "longest_step_of_1,000_messages,_ms": max(each["longest_step_s"] for each in filled) * 1e3,
            "start_until_all_wait_again,_s": max(each["start_s"] for each in found),
            "of_it_recovery_of_the_journal,_s": max(each["open_s"] for each in found),
            "start,_s_a_million_and_worker": max(each["start_s"] for each in found) / share * 1e6,
            "memory_a_message_after_the_restart,_octets": max(each["pss_octets"] for each in found) / share,
        },
    }


def in_parallel(step: str, plans: list[Plan], limit_s: float) -> list[dict[str, Any]]:
    programs = [Program("ten_million", step, json.dumps(asdict(plan))) for plan in plans]
    try:
        return [program.finish(limit_s) for program in programs]
    finally:
        for program in programs:
            program.close()


def main(argv: list[str]) -> int:
    work = {"fill": fill, "recover": recover}[argv[0]]
    print(json.dumps(work(Plan(**json.loads(argv[1])))), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
