"""The header of the PROXY protocol, versions 1 and 2; documented in cext/proxy_header.pyx."""

from typing import final

@final
class ProxyHeader:
    """One header, as it comes in."""

    @property
    def version(self) -> int:
        """1 or 2; 0 until the first octet has come."""
    @property
    def done(self) -> bool:
        """Whether it is whole."""
    @property
    def known(self) -> bool:
        """Whether it names a client; if not, whoever is connected is the client."""
    @property
    def source(self) -> str:
        """The client's address as text; "" when it has none."""
    @property
    def source_port(self) -> int: ...
    @property
    def destination(self) -> str:
        """The address that the client was connected to."""
    @property
    def destination_port(self) -> int: ...
    def feed(self, octets: bytes) -> int:
        """Take the header's part of octets; how many of them that is. ValueError for what is no header."""

__test__: dict[str, str]
