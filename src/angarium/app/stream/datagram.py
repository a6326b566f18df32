"""Datagrams to a service of this machine or another, each handed over whole or not at all.

A socket that is full is waited for. Fails: OSError; EMSGSIZE for what is too long."""

from __future__ import annotations

import asyncio
import socket

__all__ = ["DatagramSocket"]


class DatagramSocket:
    """Connected when it is made; OSError when there is nobody."""

    def __init__(self, family: socket.AddressFamily, address: str | tuple[str, int]) -> None:
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self.socket.setblocking(False)
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise

    async def send(self, octets: bytes) -> None:
        """One datagram."""
        while True:
            try:
                self.socket.send(octets)
            except BlockingIOError:
                await self.writable()
            else:
                return

    async def writable(self) -> None:
        """Until there is room."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(self.socket, _settle, ready)
        try:
            await ready
        finally:
            loop.remove_writer(self.socket)

    def close(self) -> None:
        """Let go of it."""
        self.socket.close()


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
