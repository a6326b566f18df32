"""Side files of sealed segments; documented in cext/segment_index.pyx."""

from angarium._core.disk import Disk
from angarium._core.journal import Segment

def index_path(path: str) -> str:
    """Where the side file of a segment is."""

def build_index(segment: Segment, shard: int) -> int:
    """Write the side file of a sealed segment; its octets, or 0 when there is none. Blocks: call it in a thread."""

def read_index(disk: Disk, path: str, shard: int, serial: int) -> tuple[int, bytes] | None:
    """(used, body) of the side file at path; None when there is none for this life of the segment, or it is harmed."""

__test__: dict[str, str]
