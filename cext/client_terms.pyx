"""What policy grants to the clients of one address on one listener: decided once, then read by compiled code.

Job: hold the answers that a session needs for each message (may the client relay, whose mail is it, which durability
class, which priority at most, which source pool), so that nothing is looked up per command. policy.tenancy makes them,
ListenerProfile remembers them by address, and by log-in. What concerns single messages is the terms' Permission, where
there is one.

A message may ask for a durability class by a header field (header.pyx finds it). What it gets is never weaker than
`durability_floor` and never stronger than `durability_ceiling`; a value that names no class counts as none.

Fails: ValueError for a class that does not stand between floor and ceiling.
"""

import json

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from angarium._core.octets cimport is_word
from angarium._core.permission cimport Permission
from angarium._core.record cimport DURABILITY_ASYNC, DURABILITY_FSYNC, DURABILITY_MEMORY, MESSAGE_BULK


cdef class ClientTerms:
    def __init__(self, *, bint may_relay=False, bint bare_newlines=False, bytes tenant=b"", bint bulk=False,
                 uint8_t durability=DURABILITY_FSYNC, durability_floor=None, durability_ceiling=None,
                 int highest_priority=9, Permission permission=None, bytes source_pool=b""):
        self.may_relay = may_relay
        self.bare_newlines = bare_newlines
        self.tenant = tenant
        self.flags = MESSAGE_BULK if bulk else 0
        self.durability = durability
        self.durability_floor = durability if durability_floor is None else durability_floor
        self.durability_ceiling = DURABILITY_FSYNC if durability_ceiling is None else durability_ceiling
        self.highest_priority = highest_priority
        self.permission = permission
        self.source_pool = source_pool
        self.told = b"" if permission is None else permission.told
        if source_pool:
            self.told += b',"pool":' + json.dumps(source_pool.decode("utf-8", "replace")).encode("ascii")
        if not self.durability_ceiling <= durability <= self.durability_floor <= DURABILITY_MEMORY:
            raise ValueError(
                f"durability {durability} is not between {self.durability_ceiling} and {self.durability_floor}"
            )

    cdef uint8_t durability_of(self, const char *asked, size_t n) noexcept nogil:
        """The class of a message that asks for asked[:n]: the numbers grow as the classes become weaker."""
        cdef uint8_t wanted
        if is_word(asked, n, b"fsync", 5):
            wanted = DURABILITY_FSYNC
        elif is_word(asked, n, b"async", 5):
            wanted = DURABILITY_ASYNC
        elif is_word(asked, n, b"memory", 6):
            wanted = DURABILITY_MEMORY
        else:
            return self.durability
        return min(max(wanted, self.durability_ceiling), self.durability_floor)

    def asked(self, bytes value) -> int:
        """The class of a message whose X-Angarium-Durability says value."""
        return self.durability_of(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
