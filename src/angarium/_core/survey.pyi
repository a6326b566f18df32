"""What is queued, counted now and then; documented in cext/survey.pyx."""

from typing_extensions import disjoint_base

from angarium._core.counters import Counters
from angarium._core.top_k import TopK

@disjoint_base
class Survey:
    """Gauges of what is queued, gathered while the dispatcher goes round its table."""

    def __init__(self, counters: Counters, now: float) -> None:
        """now: monotonic."""
    @property
    def counters(self) -> Counters: ...
    @property
    def top(self) -> TopK: ...
