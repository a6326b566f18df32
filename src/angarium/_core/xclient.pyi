"""The arguments of XCLIENT; documented in cext/xclient.pyx."""

from typing import Final, final

UNKNOWN: Final[bytes]

@final
class XClient:
    """What a host in front says of its client. None: it does not say; b"": it does not know."""

    @property
    def address(self) -> bytes | None:
        """As text; UNKNOWN when it is not known."""
    @property
    def name(self) -> bytes | None: ...
    @property
    def greeting(self) -> bytes | None: ...
    @property
    def login(self) -> bytes | None: ...
    @property
    def plain(self) -> bool:
        """The client speaks SMTP, not ESMTP."""

def read_xclient(arguments: bytes) -> XClient | bytes:
    """What stands behind XCLIENT, read; or the reply that refuses it. For tests."""

__test__: dict[str, str]
