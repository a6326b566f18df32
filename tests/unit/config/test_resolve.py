"""What "auto" and shares come to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from angarium.config.address import ListenAddress
from angarium.config.model import Config, Listener, Node, Queue
from angarium.config.resolve import machine_memory_octets, memory_budget_octets, shard_count, worker_count
from angarium.config.units import MemoryBudget

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def config(
    workers: int | Literal["auto"] = "auto", shards: int | Literal["auto"] = "auto", budget: str = "25%"
) -> Config:
    return Config(
        node=Node(hostname="a.example", spool="/spool", workers=workers),
        listener=(Listener(name="x", listen=ListenAddress(host="127.0.0.1"), role="relay"),),
        queue=Queue(shards=shards, memory_budget=MemoryBudget.parse(budget)),
    )


def test_workers_and_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    cases: list[tuple[int | Literal["auto"], int | Literal["auto"]]] = [
        ("auto", "auto"),
        (3, "auto"),
        ("auto", 2),
        (3, 4),
        (20, "auto"),
    ]
    found = [(worker_count(config(*case)), shard_count(config(*case))) for case in cases]
    assert found == [(12, 12), (3, 8), (2, 2), (3, 4), (20, 20)]


def test_memory_budget(tmp_path: Path) -> None:
    assert memory_budget_octets(config(budget="2MB")) == 2_000_000
    assert memory_budget_octets(config(budget="50%")) == machine_memory_octets() // 2


def test_the_control_group_limits_the_memory(tmp_path: Path) -> None:
    physical = machine_memory_octets(tmp_path / "none")
    assert physical == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for written, expected in [("1048576\n", 1048576), ("max\n", physical), (f"{physical * 2}\n", physical)]:
        (tmp_path / "memory.max").write_text(written)
        assert machine_memory_octets(tmp_path) == expected
