"""The supervisor's start: what it cannot begin, it says in one line and leaves."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from angarium import supervisor
from angarium.config.address import ListenAddress
from angarium.config.load import examine_text
from angarium.supervisor import StartFailure, Supervisor, bind, end_half_line

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
    monkeypatch.setattr(supervisor.sys, "executable", str(program))
    monkeypatch.setattr(supervisor, "PAUSE_FIRST_S", 0.01)
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


def test_a_port_that_another_relay_shares_among_its_workers_is_in_use() -> None:
    """SO_REUSEPORT would let a second relay of the same user join in, and the kernel give it half of the mail."""
    with bind(ListenAddress("127.0.0.1", 0), shared=True) as first:
        address = ListenAddress("127.0.0.1", first.getsockname()[1])
        with bind(address, shared=True, first=False) as second:  # of its own there may be several
            assert second.getsockname() == first.getsockname()
            with pytest.raises(StartFailure, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use"):
                bind(address, shared=True)
    bind(address, shared=True).close()


def test_a_unix_socket_is_taken_over_from_the_dead_only(tmp_path: Path) -> None:
    address = ListenAddress(path=str(tmp_path / "admin.sock"))
    with bind(address), pytest.raises(StartFailure, match=r"admin\.sock: Address already in use"):
        bind(address)
    bind(address).close()
    file = tmp_path / "precious"
    file.write_text("mail")
    with pytest.raises(StartFailure, match="Address already in use"):
        bind(ListenAddress(path=str(file)))
    assert file.read_text() == "mail"


@pytest.mark.parametrize(
    ("found", "left"),
    [(b"", b""), (b'{"a":1}\n', b'{"a":1}\n'), (b'{"a":1}\n{"time', b'{"a":1}\n{"time\n'), (b"{", b"{\n")],
)
def test_half_a_line_of_a_killed_process_is_ended(tmp_path: Path, found: bytes, left: bytes) -> None:
    events = tmp_path / "events.jsonl"
    events.write_bytes(found)
    end_half_line(events)
    assert events.read_bytes() == left


def test_an_event_log_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    end_half_line(tmp_path / "events.jsonl")
    assert not (tmp_path / "events.jsonl").exists()
