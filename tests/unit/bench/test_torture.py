"""The torture script's accounts and its report, on numbers made up for them; tests/faults/test_kill.py runs it."""

import pytest

from tests.faults import torture

MACHINE = {
    "cores": 2,
    "cpu": "Model",
    "virtual": False,
    "memory_octets": 8 << 30,
    "system": "Debian",
    "kernel": "6",
    "commit": "abc",
    "uncommitted_changes": False,
    "spool": {"filesystem": "ext4", "fdatasync_per_s": {"growing_file": 1000.0, "recycled_file": 4000.0}},
}


def result(**changed: object) -> dict:
    plan = torture.Plan(node_kills=3, seed=7)
    report = torture.Report(plan, seconds=12.0, acknowledged=1000, delivered=1003, duplicates_explained=3)
    for name, value in changed.items():
        setattr(report, name, value)
    return {
        **torture.asdict(report),
        "sound": report.sound,
        "machine": MACHINE,
        "command": "python -m tests.faults.torture",
    }


def test_the_ledger_adds_up_what_is_divided_by_labels() -> None:
    metrics = {
        'angarium_queue_ledger_recipients_total{outcome="accepted"}': 10.0,
        'angarium_queue_ledger_recipients_total{outcome="delivered"}': 6.0,
        'angarium_queue_ledger_dropped_recipients_total{reason="operator_deleted"}': 1.0,
        'angarium_queue_ledger_dropped_recipients_total{reason="damaged"}': 2.0,
        "angarium_queue_ledger_queued_recipients": 1.0,
        "angarium_queue_ledger_drift_recipients": 0.0,
        "angarium_queue_messages": 1.0,
    }
    assert torture.ledger_of(metrics) == {"accepted": 10, "delivered": 6, "dropped": 3, "queued": 1, "drift": 0}


def test_a_report_that_is_sound() -> None:
    text = torture.render(result(ledger={"accepted": 1000, "delivered": 1000}))
    assert "Result: **sound**" in text
    assert "| **lost** | **0** |" in text
    assert "| the relay's ledger, recipients | accepted 1,000, delivered 1,000 |" in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"lost": 1},
        {"duplicates_unexplained": 1},
        {"tracebacks": 1},
        {"ledger_drift": -1},
        {"ledger_strange": 2},
        {"ledger_restarted": False},
    ],
)
def test_a_report_that_is_not(wrong: dict[str, object]) -> None:
    text = torture.render(result(details=["lost: t1 as 0SAQS2V780G00"], **wrong))
    assert "NOT SOUND" in text
    assert "- lost: t1 as 0SAQS2V780G00" in text
