"""The disk that a journal lives on; documented in cext/disk.pyx and cext/disk.h."""

from typing_extensions import disjoint_base

@disjoint_base
class Disk:
    """File operations by way of a table of C functions; Disk() is the machine's own file system."""

    @staticmethod
    def from_functions(kept: object = None, **addresses: int) -> Disk:
        """A disk with other functions: NAME=address for fields of angarium_disk; the rest are the machine's own.

        `kept` stays alive as long as the disk does. TypeError for a name that is no field.
        """
    def open_file(self, path: str, flags: int) -> int:
        """A descriptor of the file (or of a folder, with O_DIRECTORY); new files are for their owner only."""
    def close_file(self, fd: int) -> None:
        """Close a descriptor."""
    def size(self, fd: int) -> int:
        """Octets of the file."""
    def resize(self, fd: int, octets: int) -> None:
        """Cut the file off, or make it longer without taking room."""
    def allocate(self, fd: int, octets: int, path: str) -> None:
        """The file has so many octets, and room on the disk for them."""
    def read_at(self, fd: int, n: int, position: int) -> bytes:
        """n octets at position, or fewer where the file ends."""
    def write_at(self, fd: int, octets: bytes, position: int) -> None:
        """Write all of octets at position."""
    def fill_with_zeros(self, fd: int, octets: int) -> None:
        """Write so many zeros and sync them: later writes and syncs then change no metadata."""
    def sync_data(self, fd: int) -> None:
        """What was written to the file is on disk. After a failure it must not be called again on this descriptor."""
    def sync_folder(self, fd: int) -> None:
        """Which files there are is on disk."""
    def unlink_file(self, path: str) -> None:
        """Take the file out of its folder."""
    def rename_file(self, source: str, target: str) -> None:
        """Give the file another name; what had that name is gone."""
    def list_folder(self, folder: str) -> list[str]:
        """Names of the files in folder, sorted."""
    def room(self, folder_fd: int) -> int:
        """Octets that can still be had on the disk of this folder."""

__pyx_capi__: dict[str, object]  # the C functions of disk.pxd
__test__: dict[str, str]
