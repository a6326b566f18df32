"""When a deferred message is tried again, and when it is given up (RFC 5321 §4.5.4.1).

The interval grows from `first_s` by `factor` up to `longest_s`; `jitter` makes each of them longer or shorter by up to
that share, so that what was deferred together does not come back together. Times are unix seconds, randomness is passed
in. Nothing here fails.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from angarium.config.model import Retry

__all__ = ["expires_at", "next_attempt_at", "retry_delay", "warns_at"]


def retry_delay(retry: Retry, attempts: int, random: Random) -> float:
    """Seconds from the last of so many attempts (at least one) to the next."""
    steps = max(0, attempts - 1)
    # compared as logarithms: the power itself overflows after some hundred attempts
    if retry.first_s >= retry.longest_s or steps * math.log(retry.factor) >= math.log(retry.longest_s / retry.first_s):
        interval = retry.longest_s
    else:
        interval = retry.first_s * retry.factor**steps
    return interval * random.uniform(1.0 - retry.jitter, 1.0 + retry.jitter)


def expires_at(retry: Retry, received: float) -> float:
    """When a message that came in at `received` is no longer tried."""
    return received + retry.expire_s


def warns_at(retry: Retry, received: float) -> float | None:
    """When its sender is told that it is late; None: never."""
    return received + retry.warn_after_s if retry.warn_after_s else None


def next_attempt_at(retry: Retry, received: float, now: float, attempts: int, random: Random) -> float | None:
    """When to try again after an attempt that ended now; None when the time of the message is over.

    The last attempt is made at the moment at which the message expires: an interval of hours must not shorten its days.
    """
    end = expires_at(retry, received)
    if now >= end:
        return None
    return min(now + retry_delay(retry, attempts, random), end)
