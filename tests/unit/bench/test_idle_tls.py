"""What an idle session costs a worker, by the bench's own measure, and the bench's report."""

from __future__ import annotations

import pytest

from bench import idle_tls


@pytest.mark.timeout(300)  # hundreds of handshakes beside whatever else the machine does
@pytest.mark.parametrize("way", ["starttls", "implicit"])
def test_an_idle_session_over_tls_costs_what_is_promised(way: str) -> None:
    run = idle_tls.measure(way, 150)
    assert 0 < run["session_octets"] <= idle_tls.GOAL_OCTETS, run
    assert run["used_session_octets"] <= idle_tls.GOAL_OCTETS, run


def test_the_report_says_whether_the_goal_is_reached() -> None:
    run = {
        "way": "starttls",
        "sessions": 1000,
        "before_octets": 30_000_000,
        "after_octets": 55_000_000,
        "used_octets": 70_000_000,
        "left_octets": 31_000_000,
        "session_octets": 25_600,
        "used_session_octets": 40_960,
    }
    machine = {key: key for key in ("cpu", "kernel", "python", "openssl", "uvloop", "commit")}
    text = idle_tls.report({"machine": machine, "time": "today", "reached": True, "runs": [run]})
    assert "(PSS): reached." in text
    assert "| starttls | 1,000 | 25.0 KiB | 40.0 KiB | 30.0 MB | 55.0 MB | 31.0 MB |" in text
