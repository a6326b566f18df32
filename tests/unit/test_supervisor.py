"""The supervisor's start: what it cannot begin, it says in one line and leaves."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from angarium.app import child
from angarium.config.load import examine_text
from angarium.supervisor import StartFailure, Supervisor

if TYPE_CHECKING:
    from angarium.config.model import Config


def config_of(folder: Path) -> Config:
    examination = examine_text(
        f"""
        [node]
        hostname = "relay.example.org"
        spool = "{folder / "spool"}"
        workers = 1
        [admin]
        listen = "127.0.0.1:0"
        [[listener]]
        name = "relay"
        listen = "127.0.0.1:0"
        role = "relay"
        relay_networks = ["127.0.0.0/8"]
        """
    )
    assert examination.config is not None, examination.problems
    return examination.config


def test_children_that_cannot_start_end_the_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "broken"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.read()\nsys.exit(3)\n")
    program.chmod(0o700)
    monkeypatch.setattr(child.sys, "executable", str(program))
    monkeypatch.setattr(child, "PAUSE_FIRST_S", 0.01)
    with pytest.raises(StartFailure, match=r"cannot start \(exit status 3\)"):
        Supervisor(config_of(tmp_path)).run()


def test_a_spool_in_use_is_said(tmp_path: Path) -> None:
    import fcntl

    config = config_of(tmp_path)
    spool = Path(config.node.spool)
    spool.mkdir()
    with open(spool / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StartFailure, match="in use by another relay"):
            Supervisor(config).run()


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    import msgspec

    config = config_of(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = msgspec.structs.replace(config.listener[0].listen, port=taken.getsockname()[1])
        listener = msgspec.structs.replace(config.listener[0], listen=address)
        with pytest.raises(StartFailure, match=r"cannot listen on 127\.0\.0\.1:\d+"):
            Supervisor(msgspec.structs.replace(config, listener=(listener,))).run()
