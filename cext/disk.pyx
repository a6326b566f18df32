"""The disk that a journal lives on.

Job: carry out every operation on the files of a shard, by way of a table of C functions (cext/disk.h). Input: paths,
descriptors, octets. The table of `Disk()` is the machine's own file system; `Disk.from_functions` takes others, so that
a test can lose, tear and refuse whatever a real disk may.

Fails: OSError with the errno that the function gave and the path, where there is one. Bounds: one call reads or writes
what it was asked for; nothing is kept.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc

cdef uint64_t ZEROS_OCTETS = 1 << 20
cdef bytes ZEROS = bytes(ZEROS_OCTETS)


cdef class Disk:
    def __cinit__(self):
        self.functions = angarium_real_disk

    @staticmethod
    def from_functions(object kept=None, **addresses) -> Disk:
        """A disk with other functions: NAME=address for fields of angarium_disk; the rest are the machine's own.

        `kept` stays alive as long as the disk does. TypeError for a name that is no field.
        """
        cdef Disk disk = Disk()
        cdef angarium_disk *f = &disk.functions
        cdef uintptr_t address
        disk._kept = kept
        for name, value in addresses.items():
            address = value
            if name == "open_file":
                f.open_file = <int (*)(const char *, int, int) noexcept nogil>address
            elif name == "close_file":
                f.close_file = <int (*)(int) noexcept nogil>address
            elif name == "size":
                f.size = <int64_t (*)(int) noexcept nogil>address
            elif name == "resize":
                f.resize = <int (*)(int, uint64_t) noexcept nogil>address
            elif name == "allocate":
                f.allocate = <int (*)(int, uint64_t) noexcept nogil>address
            elif name == "write_at":
                f.write_at = <int64_t (*)(int, const iovec *, int, uint64_t) noexcept nogil>address
            elif name == "read_at":
                f.read_at = <int64_t (*)(int, void *, uint64_t, uint64_t) noexcept nogil>address
            elif name == "sync_data":
                f.sync_data = <int (*)(int) noexcept nogil>address
            elif name == "sync_folder":
                f.sync_folder = <int (*)(int) noexcept nogil>address
            elif name == "unlink_file":
                f.unlink_file = <int (*)(const char *) noexcept nogil>address
            elif name == "rename_file":
                f.rename_file = <int (*)(const char *, const char *) noexcept nogil>address
            elif name == "list":
                f.list = <int64_t (*)(const char *, char *, uint64_t) noexcept nogil>address
            elif name == "room":
                f.room = <int64_t (*)(int) noexcept nogil>address
            elif name == "map":
                f.map = <void *(*)(int, uint64_t) noexcept nogil>address
            elif name == "unmap":
                f.unmap = <int (*)(void *, uint64_t) noexcept nogil>address
            else:
                raise TypeError(f"a disk has no function {name!r}")
        return disk

    def open_file(self, str path, int flags) -> int:
        """A descriptor of the file (or of a folder, with O_DIRECTORY); new files are for their owner only."""
        cdef bytes name = os.fsencode(path)
        cdef const char *p = name
        cdef int result
        with nogil:
            result = self.functions.open_file(p, flags, 0o600)
        return checked(result, path)

    def close_file(self, int fd):
        """Close a descriptor."""
        checked(self.functions.close_file(fd), None)

    def size(self, int fd) -> int:
        """Octets of the file."""
        return checked(self.functions.size(fd), None)

    def resize(self, int fd, uint64_t octets):
        """Cut the file off, or make it longer without taking room."""
        checked(self.functions.resize(fd, octets), None)

    def allocate(self, int fd, uint64_t octets, str path):
        """The file has so many octets, and room on the disk for them."""
        cdef int result
        with nogil:
            result = self.functions.allocate(fd, octets)
        checked(result, path)

    def read_at(self, int fd, uint64_t n, uint64_t position) -> bytes:
        """n octets at position, or fewer where the file ends."""
        cdef bytes octets = PyBytes_FromStringAndSize(NULL, n)
        cdef char *p = PyBytes_AS_STRING(octets)
        cdef int64_t got
        with nogil:
            got = angarium_read_all(&self.functions, fd, p, n, position)
        checked(got, None)
        return octets if <uint64_t>got == n else octets[:got]

    def write_at(self, int fd, bytes octets, uint64_t position):
        """Write all of octets at position."""
        cdef iovec piece
        cdef int error
        piece.iov_base = PyBytes_AS_STRING(octets)
        piece.iov_len = PyBytes_GET_SIZE(octets)
        with nogil:
            error = angarium_write_all(&self.functions, fd, &piece, 1, position)
        checked(-error, None)

    def fill_with_zeros(self, int fd, uint64_t octets):
        """Write so many zeros and sync them: later writes and syncs then change no metadata."""
        cdef uint64_t position = 0
        cdef iovec piece
        cdef char *zeros = PyBytes_AS_STRING(ZEROS)
        cdef int error = 0
        with nogil:
            while position < octets and error == 0:
                piece.iov_base = zeros
                piece.iov_len = min(ZEROS_OCTETS, octets - position)
                error = angarium_write_all(&self.functions, fd, &piece, 1, position)
                position += ZEROS_OCTETS
            if error == 0:
                error = -self.functions.sync_data(fd)
        checked(-error, None)

    def sync_data(self, int fd):
        """What was written to the file is on disk. After a failure it must not be called again on this descriptor."""
        cdef int result
        with nogil:
            result = self.functions.sync_data(fd)
        checked(result, None)

    def sync_folder(self, int fd):
        """Which files there are is on disk."""
        cdef int result
        with nogil:
            result = self.functions.sync_folder(fd)
        checked(result, None)

    def unlink_file(self, str path):
        """Take the file out of its folder."""
        cdef bytes name = os.fsencode(path)
        cdef const char *p = name
        cdef int result
        with nogil:
            result = self.functions.unlink_file(p)
        checked(result, path)

    def rename_file(self, str source, str target):
        """Give the file another name; what had that name is gone."""
        cdef bytes first = os.fsencode(source)
        cdef bytes second = os.fsencode(target)
        checked(self.functions.rename_file(PyBytes_AS_STRING(first), PyBytes_AS_STRING(second)), source)

    def list_folder(self, str folder) -> list[str]:
        """Names of the files in folder, sorted."""
        cdef bytes name = os.fsencode(folder)
        cdef const char *p = name
        cdef uint64_t capacity = 1 << 16
        cdef int64_t n
        cdef char *names
        while True:
            names = <char *>malloc(capacity)
            if names == NULL:
                raise MemoryError
            try:
                with nogil:
                    n = self.functions.list(p, names, capacity)
                checked(n, folder)
                if <uint64_t>n <= capacity:
                    return sorted([os.fsdecode(name) for name in names[:n].split(b"\0") if name])
                capacity = <uint64_t>n * 2
            finally:
                free(names)

    def room(self, int folder_fd) -> int:
        """Octets that can still be had on the disk of this folder."""
        return checked(self.functions.room(folder_fd), None)


cdef int64_t checked(int64_t result, str path) except? -1:
    """result, or the OSError that it stands for."""
    if result < 0:
        error = <int>-result
        if path is None:
            raise OSError(error, os.strerror(error))
        raise OSError(error, os.strerror(error), path)
    return result


cdef Disk REAL_DISK = Disk()


cdef Disk real_disk():
    """The machine's own."""
    return REAL_DISK
