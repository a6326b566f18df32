"""How little of the processor the calling thread may take from others (Linux, sched(7)).

Job: for threads that hash passwords. A nice value alone does not make a scheduler with deadlines (EEVDF, since Linux
6.6) take the processor from such a thread when somebody wakes up: it runs to the end of its slice, and whoever carries
mail waits for some milliseconds at each step of a dialogue. So the slice is made short, or the thread is one of those
that run when nobody else wants to.

Fails never: where the kernel does not know or allow it, the thread runs like any other. Kernels before 6.12 take the
nice value, and no slice.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "<sys/syscall.h>" nogil:
    enum:
        SYS_sched_setattr

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)

cdef extern from "<sched.h>" nogil:
    enum:
        SCHED_OTHER
        SCHED_IDLE

cdef struct SchedAttributes:         # struct sched_attr of linux/sched/types.h, first version
    uint32_t size
    uint32_t policy
    uint64_t flags
    int32_t nice
    uint32_t priority
    uint64_t runtime_ns
    uint64_t deadline_ns
    uint64_t period_ns


cdef bint set_attributes(uint32_t policy, int32_t nice, uint64_t slice_ns) noexcept nogil:
    cdef SchedAttributes wanted
    memset(&wanted, 0, sizeof(wanted))
    wanted.size = sizeof(wanted)
    wanted.policy = policy
    wanted.nice = nice
    wanted.runtime_ns = slice_ns
    return syscall(SYS_sched_setattr, <long>0, &wanted, <long>0) == 0


def run_behind(int nice, uint64_t slice_ns) -> bool:
    """The calling thread has this nice value, and after each slice gives the processor up to whoever waits for it."""
    return set_attributes(SCHED_OTHER, nice, slice_ns)


def run_when_idle() -> bool:
    """The calling thread runs when nobody else wants to; whoever wakes up goes before it, at once."""
    return set_attributes(SCHED_IDLE, 0, 0)
