/* Appends whole lines to a file that several processes write.
 *
 * A write to a file may be cut short, by a full disk or by the end of its process; another process would then go on
 * behind half a line. So whoever writes holds the file's write lock (F_OFD_SETLK: the kernel drops it with the last
 * descriptor, so with the process), takes back what was written of a line in part, and ends a line that another left
 * without an end. The lock is not waited for here: who does not get it keeps his lines for the next time.
 *
 * Pipes and devices have neither locks nor an end to look at: there it is a plain write.
 */
#ifndef ANGARIUM_LOG_FILE_H
#define ANGARIUM_LOG_FILE_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static inline int log_file_lock(int fd, short kind)
{
    struct flock lock = {.l_type = kind, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &lock);
}

static inline size_t log_file_put(int fd, const char *octets, size_t n)
{
    size_t done = 0;
    ssize_t written;
    while (done < n) {
        written = write(fd, octets + done, n - done);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            break;
        done += (size_t)written;
    }
    return done;
}

/* Returns how many octets are written, and need not be written again. */
static inline size_t log_file_append(int fd, const char *octets, size_t n)
{
    struct stat file;
    size_t done = 0, whole;
    char last;
    if (fstat(fd, &file) < 0 || !S_ISREG(file.st_mode))
        return log_file_put(fd, octets, n);
    if (log_file_lock(fd, F_WRLCK) < 0)
        return 0;
    if (fstat(fd, &file) == 0) {
        if (file.st_size > 0 && pread(fd, &last, 1, file.st_size - 1) == 1 && last != '\n') {
            if (log_file_put(fd, "\n", 1) != 1)
                goto out;
            file.st_size++;
        }
        done = log_file_put(fd, octets, n);
        if (done < n) {
            for (whole = done; whole > 0 && octets[whole - 1] != '\n'; whole--)
                ;
            /* what cannot be taken back gets an end from whoever writes next, and its line is written again whole */
            if (whole < done)
                (void)!ftruncate(fd, file.st_size + (off_t)whole);
            done = whole;
        }
    }
out:
    log_file_lock(fd, F_UNLCK);
    return done;
}

/* Whether the name still leads to the file that is open: 0 when it leads elsewhere, or nowhere. */
static inline int log_file_is(int fd, const char *path)
{
    struct stat there, here;
    if (stat(path, &there) < 0)
        return errno != ENOENT;   /* who may not look goes on as before */
    return fstat(fd, &here) == 0 && there.st_dev == here.st_dev && there.st_ino == here.st_ino;
}

#endif
