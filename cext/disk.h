/* The file operations of the journal, in one small table, so that a test can put a failing or forgetful disk in its place.
 *
 * Everything that the journal, its commit thread, the making of spare files, the in-flight table and recovery do to files goes
 * through these functions; nothing else may be used on a shard's folder. All of them return a negative errno when they
 * fail (`map`: NULL), are called with or without the GIL, and from several threads.
 *
 * What is relied on, and what a disk may do after a power failure, as far as it was not synced:
 * - write_at: any 512-octet sector may be as it was at the last sync_data of the file, or as any later write left it; or torn, but
 *   for what sits in the first sector of a file (a header of 48 octets; its checksum finds the rest).
 * - open_file with O_CREAT, unlink_file, rename_file: any of them may not have happened, in any order, until
 *   sync_folder of the folder.
 * - sync_data that failed may have thrown away what it was to write: it is never called again on that descriptor.
 */
#ifndef ANGARIUM_DISK_H
#define ANGARIUM_DISK_H
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

typedef struct angarium_disk {
    int (*open_file)(const char *path, int flags, int mode); /* a descriptor; also of a folder, with O_DIRECTORY */
    int (*close_file)(int fd);
    int64_t (*size)(int fd);
    int (*resize)(int fd, uint64_t octets);
    int (*allocate)(int fd, uint64_t octets); /* the file has so many octets, and room for them */
    int64_t (*write_at)(int fd, const struct iovec *vector, int count, uint64_t position);
    int64_t (*read_at)(int fd, void *octets, uint64_t n, uint64_t position);
    int (*sync_data)(int fd);
    int (*sync_folder)(int fd);
    int (*unlink_file)(const char *path);
    int (*rename_file)(const char *from, const char *to);
    /* The names in a folder, each with a zero octet behind it; returns how many octets they take, whether they fitted or not. */
    int64_t (*list)(const char *folder, char *names, uint64_t capacity);
    int64_t (*room)(int folder_fd); /* octets that can still be had */
    void *(*map)(int fd, uint64_t octets); /* shared, for reading and writing */
    int (*unmap)(void *memory, uint64_t octets);
} angarium_disk;

static inline int angarium_disk_open(const char *path, int flags, int mode) {
    int fd = open(path, flags | O_CLOEXEC, mode);
    return fd < 0 ? -errno : fd;
}

static inline int angarium_disk_close(int fd) { return close(fd) < 0 ? -errno : 0; }

static inline int64_t angarium_disk_size(int fd) {
    struct stat found;
    return fstat(fd, &found) < 0 ? -errno : (int64_t)found.st_size;
}

static inline int angarium_disk_resize(int fd, uint64_t octets) { return ftruncate(fd, (off_t)octets) < 0 ? -errno : 0; }

static inline int angarium_disk_allocate(int fd, uint64_t octets) {
    int error;
    do error = posix_fallocate(fd, 0, (off_t)octets);
    while (error == EINTR);
    return -error;
}

static inline int64_t angarium_disk_write_at(int fd, const struct iovec *vector, int count, uint64_t position) {
    ssize_t n = pwritev(fd, vector, count, (off_t)position);
    return n < 0 ? -errno : n;
}

static inline int64_t angarium_disk_read_at(int fd, void *octets, uint64_t n, uint64_t position) {
    ssize_t got = pread(fd, octets, n, (off_t)position);
    return got < 0 ? -errno : got;
}

static inline int angarium_disk_sync_data(int fd) { return fdatasync(fd) < 0 ? -errno : 0; }

static inline int angarium_disk_sync_folder(int fd) { return fsync(fd) < 0 ? -errno : 0; }

static inline int angarium_disk_unlink(const char *path) { return unlink(path) < 0 ? -errno : 0; }

static inline int angarium_disk_rename(const char *from, const char *to) { return rename(from, to) < 0 ? -errno : 0; }

static inline int64_t angarium_disk_list(const char *folder, char *names, uint64_t capacity) {
    DIR *stream = opendir(folder);
    struct dirent *entry;
    uint64_t used = 0;
    if (!stream) return -errno;
    errno = 0;
    while ((entry = readdir(stream)) != NULL) {
        size_t n = strlen(entry->d_name) + 1;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (used + n <= capacity) memcpy(names + used, entry->d_name, n);
        used += n;
        errno = 0;
    }
    int error = errno;
    closedir(stream);
    return error ? -error : (int64_t)used;
}

static inline int64_t angarium_disk_room(int folder_fd) {
    struct statvfs found;
    return fstatvfs(folder_fd, &found) < 0 ? -errno : (int64_t)(found.f_bavail * found.f_frsize);
}

static inline void *angarium_disk_map(int fd, uint64_t octets) {
    void *memory = mmap(NULL, octets, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static inline int angarium_disk_unmap(void *memory, uint64_t octets) { return munmap(memory, octets) < 0 ? -errno : 0; }

static const angarium_disk angarium_real_disk = {
    angarium_disk_open,     angarium_disk_close,     angarium_disk_size,        angarium_disk_resize, angarium_disk_allocate,
    angarium_disk_write_at, angarium_disk_read_at,   angarium_disk_sync_data,   angarium_disk_sync_folder,
    angarium_disk_unlink,   angarium_disk_rename,    angarium_disk_list,        angarium_disk_room,   angarium_disk_map,
    angarium_disk_unmap,
};

/* Write all of vector[0..count) at position, however many calls that takes. The vector is used up. Returns 0 or an errno. */
static inline int angarium_write_all(const angarium_disk *disk, int fd, struct iovec *vector, int count, uint64_t position) {
    while (count > 0) {
        int64_t n = disk->write_at(fd, vector, count, position);
        if (n == -EINTR) continue;
        if (n < 0) return (int)-n;
        if (n == 0) return EIO;
        position += (uint64_t)n;
        while (count > 0 && (size_t)n >= vector->iov_len) {
            n -= (int64_t)vector->iov_len;
            vector++;
            count--;
        }
        if (count > 0) {
            vector->iov_base = (char *)vector->iov_base + n;
            vector->iov_len -= (size_t)n;
        }
    }
    return 0;
}

/* Read up to n octets at position; fewer only where the file ends. Returns how many, or a negative errno. */
static inline int64_t angarium_read_all(const angarium_disk *disk, int fd, char *octets, uint64_t n, uint64_t position) {
    uint64_t got = 0;
    while (got < n) {
        int64_t more = disk->read_at(fd, octets + got, n - got, position + got);
        if (more == -EINTR) continue;
        if (more < 0) return more;
        if (more == 0) break;
        got += (uint64_t)more;
    }
    return (int64_t)got;
}
#endif
