"""What one client may send, and what is done to its mail; documented in cext/permission.pyx."""

from collections.abc import Callable
from typing import Never

from typing_extensions import disjoint_base

from angarium._core.quota import Quota

@disjoint_base
class Permission:
    """What one client may send, and what is done to its mail."""

    def __init__(
        self,
        *args: Never,
        name: bytes = b"",
        hostname: bytes = b"localhost",
        reverse_paths: Callable[[bytes], bool] | None = None,
        from_addresses: Callable[[bytes, bytes], bool] | None = None,
        null_reverse_path: bool = True,
        recipients: int = 0,
        message_octets: int = 0,
        quota: Quota | None = None,
        fix_up: bool = False,
        hide_client: bool = False,
        legacy: bool = False,
        rewrite_from: bytes | None = None,
        rewrite_path: bytes | None = None,
        identity: bytes | None = None,
    ) -> None:
        """from_addresses is asked with a local part and a domain; rewrite_from is the value of a From field."""
    @property
    def name(self) -> bytes: ...
    @property
    def reverse_paths(self) -> Callable[[bytes], bool] | None: ...
    @property
    def from_addresses(self) -> Callable[[bytes, bytes], bool] | None: ...
    @property
    def null_reverse_path(self) -> bool: ...
    @property
    def recipients(self) -> int: ...
    @property
    def message_octets(self) -> int: ...
    @property
    def quota(self) -> Quota | None: ...
    @property
    def fix_up(self) -> bool: ...
    @property
    def hide_client(self) -> bool: ...
    @property
    def legacy(self) -> bool: ...
    @property
    def rewrite_from(self) -> bytes | None: ...
    @property
    def rewrite_path(self) -> bytes | None: ...
    @property
    def identity(self) -> bytes | None: ...
    @property
    def hostname(self) -> bytes: ...
    @property
    def told(self) -> bytes:
        """Members of the event of a message, as JSON: its name, and what it limits."""
    def unusual_text(self) -> bytes:
        """Why the last message that was found unusual was, for people."""
    def tidied(
        self, mail_data: bytes, reverse_path: bytes = b"", *, smtputf8: bool = False, number: int = 1
    ) -> bytes | str:
        """What becomes of mail data: the octets, or the reply that refuses it. For tests and tools."""

__pyx_capi__: dict[str, object]  # the C functions of permission.pxd
__test__: dict[str, str]
