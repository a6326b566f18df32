"""Python's garbage collection in a process that serves: what lives at its start lives long, and looks are rare.

Thousands of connections and look-ups that are under way are no garbage: looked at as often as by default they cost a
third of all CPU time.
"""

from __future__ import annotations

import gc

__all__ = ["settle_garbage_collection"]

THRESHOLDS = (20_000, 20, 20)


def settle_garbage_collection() -> None:
    """Call it once, when everything is set up: that is kept out of every later collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
