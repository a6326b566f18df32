"""A name for a Unix socket that fits into the 107 octets of an address, however deep its folder is."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["short_path"]


@contextlib.contextmanager
def short_path(path: str) -> Iterator[str]:
    """The name holds while the context does: it goes by the open folder (Linux). OSError when there is no folder."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)
