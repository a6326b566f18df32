"""A question that the compiled session asks of Python, and its one answer; documented in cext/decision.pyx."""

from typing import Never

from typing_extensions import disjoint_base

@disjoint_base
class Decision:
    """Takes the answer to one question: called once, now or later. What comes after the first answer does nothing."""

    def __init__(self, *args: Never) -> None:
        """TypeError: a session makes it."""
    def __call__(self, answer: object) -> None:
        """None: there is no answer, and there will be none."""
    def __del__(self) -> None: ...

__pyx_capi__: dict[str, object]  # the C function of decision.pxd
__test__: dict[str, str]
