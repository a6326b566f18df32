"""What is queued, counted now and then: by age, provider, tenant and domain."""

from libc.stdint cimport uint16_t, uint64_t

from angarium._core.counters cimport BUCKETS, PROVIDER_ROWS, TENANT_ROWS, Counters
from angarium._core.top_k cimport TopK


cdef class Survey:
    cdef readonly Counters counters
    cdef readonly TopK top                   # destination domains by messages that wait
    cdef uint64_t[32] _ages                  # by bucket, then the sum
    cdef uint64_t[64] _waiting               # by row of the provider
    cdef uint64_t[64] _oldest
    cdef uint64_t[256] _by_tenant            # by row of the tenant
    cdef double _began                       # monotonic, of this round
    cdef uint64_t lap_us                     # the last round took so long: what a message that is met now has waited

    cdef void note_age(self, double age_s) noexcept
    cdef int note_waiting(self, uint16_t provider, double age_s, const char *domain, size_t n) except -1
    cdef void note_ready(self, uint16_t provider, uint64_t deliveries) noexcept
    cdef void note_tenant(self, uint16_t tenant) noexcept
    cdef void charge(self, int slot) noexcept
    cdef int close_round(self, double now) except -1
