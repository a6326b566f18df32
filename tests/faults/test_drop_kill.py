"""kill -9 between the steps of taking a file from the drop folder: it arrives once, whichever step it was.

A module that every interpreter imports at its start (sitecustomize) kills the worker at a step, once.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.clients import PATIENCE_S
from tests.support.peers import SinkServer
from tests.support.relay import Relay, clean_environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.faults

KILLER = """
import os, signal, sys
if "worker" in sys.orig_argv and os.environ.get("KILL_AT"):
    import angarium.app.drop as drop
    import angarium.queue.dropped as dropped

    owner, name, when = os.environ["KILL_AT"].split()
    kind = {"DropFolder": dropped.DropFolder, "Pickup": drop.Pickup}[owner]
    step = kind.__dict__[name]
    plain = step.__func__ if isinstance(step, staticmethod) else step

    def die():
        try:
            os.unlink(os.environ["KILL_FLAG"])
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    def changed(*arguments):
        if when == "before":
            die()
        result = plain(*arguments)
        if when == "after":
            die()
        return result

    setattr(kind, name, staticmethod(changed) if isinstance(step, staticmethod) else changed)
"""

# in the order in which they happen; "before _let_go" is when the files are removed, and their removal not yet on disk
STEPS = [
    "DropFolder waiting after",
    "DropFolder claim before",
    "DropFolder claim after",
    "DropFolder sync before",
    "DropFolder sync after",
    "DropFolder read before",
    "DropFolder read after",
    "Pickup _offer before",
    "DropFolder remove before",
    "DropFolder remove after",
    "Pickup _let_go before",
]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    flag = tmp_path / "flag"
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(KILLER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "python"))
    monkeypatch.setenv("KILL_FLAG", str(flag))
    routes = [{"recipients": ["*"]}]
    with SinkServer() as sink:
        relay = Relay(tmp_path / "relay", {"sendmail": {"socket": "run/s.sock", "drop": "drop"}, "route": routes})
        relay.config["route"] = [{"recipients": ["*"], "next_hop": sink.url}]
        with relay:
            relay.stop()
            for number in range(3):
                drop(relay, f"a{number}@dest.test")
            flag.write_text("")
            monkeypatch.setenv("KILL_AT", step)
            relay.launch()
            relay.wait(lambda: not flag.exists(), "the kill")
            for number in range(3):
                sink.wait_mail(f"a{number}@dest.test")
            relay.wait_ready()
            relay.wait_empty()
            relay.wait(lambda: not list((tmp_path / "relay" / "drop").glob("**/*.mail")), "an empty folder")
            assert "ended (signal 9)" in relay.stderr
            relay.restart()
            assert list((tmp_path / "relay" / "drop" / "taken").iterdir()) == []
            assert sorted(recipient for mail in sink.mails for recipient in mail.recipients) == [
                f"a{number}@dest.test" for number in range(3)
            ]
            assert len(relay.events("delivery")) == 3


def drop(relay: Relay, recipient: str) -> None:
    environment = clean_environment() | {"ANGARIUM_CONFIG": str(relay.config_file)}
    program = [sys.executable, "-m", "angarium.cli.sendmail", recipient]
    subprocess.run(program, input=b"Subject: s\n\nbody\n", env=environment, check=True, timeout=PATIENCE_S)


def test_the_steps_are_there() -> None:
    """A step that was renamed would never be killed at, and its test would wait for nothing."""
    from angarium.app.drop import Pickup
    from angarium.queue.dropped import DropFolder

    for step in STEPS:
        owner, name, _ = step.split()
        assert name in {"DropFolder": DropFolder, "Pickup": Pickup}[owner].__dict__
