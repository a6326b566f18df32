"""Source pools: which of its sources a message goes by.

Job: assign each message to one source of its pool, in turn and by weight (smooth weighted round robin): none is ever a
message ahead of its share, and after as many messages as the weights' sum each has exactly its own. What is assigned is
an outlet: a source as a member of a pool, by a small number, which the message's entry and its scheduled queue carry.
So mail of one pool and source waits together, and goes where its ready queue is, without a look at the pool.

An outlet keeps its number over changes of the configuration. When its source has left the pool, `instead` says where
its mail is assigned anew; when the pool itself is gone the outlet is `missing`, and its mail waits under it, to go as
mail that has no pool of its own (angarium.delivery.attempt), until the pool is there again.

Outlets that are down or suspended get nothing new while the pool has others.

Bounds: 65,535 outlets, all that there ever were counted; mail beyond them goes as mail without a pool.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint16_t

from angarium._core.record cimport MESSAGE_POOL, Message, Text, pool_text

cdef enum:
    MOST_OUTLETS = 0xFFFF


cdef class Outlet:
    def __repr__(self):
        return f"<Outlet {self.number}: {self.source!r} of {self.pool!r}>"


cdef class SourcePool:
    def __init__(self, bytes name):
        self.name = name
        self.outlets = []

    cdef uint16_t pick(self):
        cdef Outlet outlet
        if not self.outlets:
            return 0
        outlet = self._next(False)
        if outlet is None:                   # none can be used: each waits for what was its share
            outlet = self._next(True)
        return outlet.number

    cdef Outlet _next(self, bint whatever):
        """The outlet with the most credit; each got its weight before, and the winner pays for all."""
        cdef Outlet outlet, best = None
        cdef int64_t total = 0
        for found in self.outlets:
            outlet = <Outlet>found
            if (outlet.down or outlet.suspended) and not whatever:
                continue
            outlet._credit += outlet.weight
            total += outlet.weight
            if best is None or outlet._credit > best._credit:
                best = outlet
        if best is not None:
            best._credit -= total
        return best

    def take(self) -> int:
        """pick for callers in Python."""
        return self.pick()


cdef class SourcePools:
    def __cinit__(self):
        self.own = {}
        self.of_routes = {}
        self.outlets = [None]
        self.none = SourcePool(b"")
        self.missed = {}
        self._numbers = {}

    cdef int assign(self, Message message, const char *record) except -1:
        cdef Text name
        cdef Outlet outlet
        if message.outlet or not message.flags & MESSAGE_POOL:
            return 0
        name = pool_text(record)
        key = PyBytes_FromStringAndSize(name.octets, name.length)
        pool = self.own.get(key)
        if pool is not None:
            message.outlet = (<SourcePool>pool).pick()
            return 0
        self.missed[key] = self.missed.get(key, 0) + 1
        outlet = self._outlet(key, b"", False)
        if outlet is not None:
            outlet.missing = True
            message.outlet = outlet.number
        return 0

    cdef Outlet _outlet(self, bytes pool, bytes source, bint by_route):
        """The outlet of that name, a new one when there is none; None when there are too many."""
        cdef Outlet outlet
        key = (pool, source, by_route)
        number = self._numbers.get(key)
        if number is not None:
            return <Outlet>self.outlets[number]
        if len(self.outlets) > MOST_OUTLETS:
            return None
        outlet = Outlet()
        outlet.number = len(self.outlets)
        outlet.pool = pool
        outlet.source = source
        outlet.by_route = by_route
        self.outlets.append(outlet)
        self._numbers[key] = outlet.number
        return outlet

    def change(self, list pools):
        """From now on the pools are these: (name, [(source, weight)])."""
        cdef Outlet outlet
        cdef SourcePool own, of_routes
        self.own = {}
        self.of_routes = {}
        in_force = set()
        for name, members in pools:
            own = self.own[name] = SourcePool(name)
            of_routes = self.of_routes[name] = SourcePool(name)
            for source, weight in members:
                for pool in (own, of_routes):
                    outlet = self._outlet(name, source, pool is of_routes)
                    if outlet is not None:
                        outlet.weight = weight
                        outlet._credit = 0
                        outlet.instead = None
                        outlet.missing = False
                        (<SourcePool>pool).outlets.append(outlet)
                        in_force.add(outlet.number)
        for found in self.outlets[1:]:
            outlet = <Outlet>found
            if outlet.number in in_force:
                continue
            if outlet.by_route:
                outlet.instead = self.of_routes.get(outlet.pool, self.none)
            else:
                outlet.instead = self.own.get(outlet.pool)
                outlet.missing = outlet.instead is None

    def take_missed(self) -> dict[bytes, int]:
        """Messages that came since the last call and name a pool that is not there, by its name."""
        missed, self.missed = self.missed, {}
        return missed
