"""The disk that a journal lives on: a table of file operations (cext/disk.h)."""

from libc.stdint cimport int64_t, uint64_t


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef extern from "disk.h" nogil:
    ctypedef struct angarium_disk:
        int (*open_file)(const char *path, int flags, int mode) noexcept nogil
        int (*close_file)(int fd) noexcept nogil
        int64_t (*size)(int fd) noexcept nogil
        int (*resize)(int fd, uint64_t octets) noexcept nogil
        int (*allocate)(int fd, uint64_t octets) noexcept nogil
        int64_t (*write_at)(int fd, const iovec *vector, int count, uint64_t position) noexcept nogil
        int64_t (*read_at)(int fd, void *octets, uint64_t n, uint64_t position) noexcept nogil
        int (*sync_data)(int fd) noexcept nogil
        int (*sync_folder)(int fd) noexcept nogil
        int (*unlink_file)(const char *path) noexcept nogil
        int (*rename_file)(const char *source, const char *target) noexcept nogil
        int64_t (*list)(const char *folder, char *names, uint64_t capacity) noexcept nogil
        int64_t (*room)(int folder_fd) noexcept nogil
        void *(*map)(int fd, uint64_t octets) noexcept nogil
        int (*unmap)(void *memory, uint64_t octets) noexcept nogil

    const angarium_disk angarium_real_disk
    int angarium_write_all(const angarium_disk *disk, int fd, iovec *vector, int count, uint64_t position) noexcept
    int64_t angarium_read_all(const angarium_disk *disk, int fd, char *octets, uint64_t n, uint64_t position) noexcept


cdef class Disk:
    """A disk; methods for Python and for what is not hot, the table for the commit thread."""
    cdef angarium_disk functions
    cdef object _kept                        # what the functions belong to, if they are not the machine's own


cdef Disk real_disk()
