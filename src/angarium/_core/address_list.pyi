"""The addresses of a From or Sender field (RFC 5322 §3.4); documented in cext/address_list.pyx."""

def parse_addresses(value: bytes) -> list[tuple[bytes, bytes, int, bool]] | None:
    """The mailboxes in the value of an address field; None when it cannot be read.

    Each is (local part, domain, where the local part ends in value, whether it stood in angle brackets). The local part
    is quoted only if it must be; the domain is in lower case (ASCII), and empty when there was none.
    """

__pyx_capi__: dict[str, object]  # the C functions of address_list.pxd
__test__: dict[str, str]
