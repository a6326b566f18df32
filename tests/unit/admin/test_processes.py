"""Process metrics from /proc."""

import gc
import os
import resource

import pytest

from angarium.admin.processes import ProcessCollector


def collect(pids: dict[str, int | None]) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels["process"]): sample.value
        for family in ProcessCollector(pids).collect()
        for sample in family.samples
    }


def test_figures_are_those_of_the_process() -> None:
    gc.collect()  # descriptors that earlier tests left are closed now, not between two counts
    found = collect({"admin": os.getpid()})
    used = resource.getrusage(resource.RUSAGE_SELF)
    assert found["angarium_process_cpu_seconds_total", "admin"] == pytest.approx(used.ru_utime + used.ru_stime, abs=1.0)
    assert 0 < found["angarium_process_resident_memory_bytes", "admin"] <= used.ru_maxrss * 1024 * 1.1
    assert found["angarium_process_open_fds", "admin"] == pytest.approx(len(os.listdir("/proc/self/fd")), abs=1)
    assert found["angarium_process_up", "admin"] == 1


def test_a_process_that_did_not_answer_is_down_and_has_no_figures() -> None:
    assert collect({"worker-0": None}) == {("angarium_process_up", "worker-0"): 0}


def test_another_users_descriptors_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(path)

    monkeypatch.setattr(os, "listdir", refuse)
    found = collect({"supervisor": os.getpid(), "admin": os.getpid()})
    assert ("angarium_process_resident_memory_bytes", "admin") in found
    assert not [name for name, _ in found if name == "angarium_process_open_fds"]
