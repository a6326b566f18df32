"""Source pools: which of its sources a message goes by."""

from libc.stdint cimport int64_t, uint16_t, uint64_t

from angarium._core.record cimport Message


cdef class Outlet:
    """A source as a member of a pool: what mail is assigned to, by number."""
    cdef readonly uint16_t number
    cdef readonly bytes pool
    cdef readonly bytes source               # b"": the configuration has no such pool
    cdef readonly bint by_route              # the pool is that of the mail's route, and not the mail's own
    cdef readonly bint missing               # the configuration has no such pool (any more)
    cdef readonly SourcePool instead         # None: in force; else where the mail of this outlet is assigned anew
    cdef public bint down                    # it cannot be used: no new mail while others can
    cdef public bint suspended               # likewise, by an operator
    cdef readonly int64_t weight
    cdef int64_t _credit


cdef class SourcePool:
    """The outlets of one pool, taken in turn by weight."""
    cdef readonly bytes name
    cdef readonly list outlets               # empty: no source of the configuration is meant

    cdef uint16_t pick(self)                 # number of the outlet whose turn it is; 0 when there is none
    cdef Outlet _next(self, bint whatever)


cdef class SourcePools:
    """All pools of a worker, and the outlets that mail may be assigned to."""
    cdef readonly dict own                   # name -> SourcePool, for mail that names its pool
    cdef readonly dict of_routes             # name -> SourcePool, for mail whose route does
    cdef readonly list outlets               # by number; 0: None
    cdef readonly SourcePool none            # picks 0
    cdef readonly dict missed                # name of a pool that is not there -> messages, since `take_missed`
    cdef dict _numbers                       # (pool, source, by_route) -> number

    # Gives a message that has no outlet one of the pool that its record (the meta part) names.
    cdef int assign(self, Message message, const char *record) except -1
    cdef Outlet _outlet(self, bytes pool, bytes source, bint by_route)
