"""How little of the processor the calling thread may take from others; documented in cext/thread_priority.pyx."""

def run_behind(nice: int, slice_ns: int) -> bool:
    """The calling thread has this nice value, and gives the processor up after each slice when somebody waits for it.

    Whether the kernel allows it.
    """

def run_when_idle() -> bool:
    """The calling thread runs when nobody else wants to; whoever wakes up goes before it, at once.

    Whether the kernel allows it.
    """

__test__: dict[str, str]
