"""Why a relay does not start: a sentence for whoever has started it."""

from __future__ import annotations

__all__ = ["StartFailure"]


class StartFailure(Exception):
    """The relay cannot start; the text says why."""
