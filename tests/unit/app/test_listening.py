"""The sockets of a node: what is in use stays whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium.app.listening import bind
from angarium.app.start_failure import StartFailure
from angarium.config.address import ListenAddress

if TYPE_CHECKING:
    from pathlib import Path


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
