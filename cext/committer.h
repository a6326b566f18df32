/* Group commit: one thread that writes and syncs what a journal's loop hands it, and never takes the GIL.
 *
 * The loop puts pieces into the batch that fills; while the thread writes and syncs one batch, the next one gathers. So there is
 * no timer and no added latency when idle, and under load one sync serves all that came meanwhile. The thread
 * publishes two sequence numbers, `written` (handed to the kernel) and `synced` (on disk), and rings an eventfd.
 *
 * After a failed write or sync it publishes the errno and takes nothing more until committer_restart: everything behind `synced` is
 * then unsafe. A file whose write or sync failed is never synced again (the caller gives other files).
 *
 * A piece may be a barrier: what was put before it is on disk before it is written, and it is on disk before anything
 * behind it is written. A disk is free to keep any part of what was not synced; so a file that is used again must say so
 * for good before the records of its older life go, and only the youngest file can be torn.
 */
#ifndef ANGARIUM_COMMITTER_H
#define ANGARIUM_COMMITTER_H
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "disk.h"

#define COMMITTER_FILES 16
#define COMMITTER_VECTOR 256

typedef struct {
    uint64_t position;
    const char *octets; /* NULL: in the arena, at arena_offset */
    size_t arena_offset;
    size_t length;
    int fd;
    int barrier;
} committer_piece;

typedef struct {
    committer_piece *pieces;
    size_t count, capacity;
    char *arena;
    size_t arena_used, arena_capacity;
    uint64_t last;
    int must_sync;
    int sync_folder;
} committer_batch;

typedef struct {
    committer_batch batches[2];
    committer_batch *filling, *writing;
    const angarium_disk *disk;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_t thread;
    int running, idle, stop, flush, stalled;
    int event_fd, folder_fd;
    uint64_t sync_interval_us;
    uint64_t sequence;
    int unsynced[COMMITTER_FILES];
    int unsynced_count;
    int folder_unsynced;
    uint64_t unsynced_since_us;
    /* published */
    uint64_t written, synced, syncs, sync_us, octets;
    uint64_t groups, group_records, write_us; /* of batches that were written */
    int error, failed_fd;
} committer;

static inline uint64_t committer_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

#define COMMITTER_GET(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define COMMITTER_SET(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

static inline int committer_note_unsynced(committer *c, int fd) {
    for (int i = 0; i < c->unsynced_count; i++)
        if (c->unsynced[i] == fd) return 0;
    if (c->unsynced_count == COMMITTER_FILES) { /* never many: sync the eldest now */
        int result = c->disk->sync_data(c->unsynced[0]);
        if (result != 0) {
            c->failed_fd = c->unsynced[0];
            return -result;
        }
        memmove(c->unsynced, c->unsynced + 1, sizeof(int) * (COMMITTER_FILES - 1));
        c->unsynced_count--;
    }
    if (c->unsynced_count == 0) c->unsynced_since_us = committer_now_us();
    c->unsynced[c->unsynced_count++] = fd;
    return 0;
}

static inline int committer_sync_files(committer *c) {
    int result;
    for (int i = 0; i < c->unsynced_count; i++)
        if ((result = c->disk->sync_data(c->unsynced[i])) != 0) {
            c->failed_fd = c->unsynced[i];
            return -result;
        }
    if (c->folder_unsynced && (result = c->disk->sync_folder(c->folder_fd)) != 0) return -result;
    c->folder_unsynced = 0;
    c->unsynced_count = 0;
    return 0;
}

static inline int committer_sync(committer *c) {
    uint64_t began = committer_now_us();
    int error = committer_sync_files(c);
    if (error) return error;
    COMMITTER_SET(c->sync_us, c->sync_us + (committer_now_us() - began));
    COMMITTER_SET(c->syncs, c->syncs + 1);
    return 0;
}

static inline int committer_write_batch(committer *c, committer_batch *batch) {
    struct iovec vector[COMMITTER_VECTOR];
    int count = 0, fd = -1, error;
    uint64_t start = 0, end = 0, octets = 0;
    for (size_t i = 0; i <= batch->count; i++) {
        committer_piece *piece = i < batch->count ? &batch->pieces[i] : NULL;
        int at_barrier = (piece && piece->barrier) || (i && batch->pieces[i - 1].barrier);
        if (count && (!piece || at_barrier || piece->fd != fd || piece->position != end || count == COMMITTER_VECTOR)) {
            if ((error = angarium_write_all(c->disk, fd, vector, count, start)) != 0) {
                c->failed_fd = fd;
                return error;
            }
            octets += end - start;
            if ((error = committer_note_unsynced(c, fd)) != 0) return error;
            count = 0;
        }
        if (at_barrier && (error = committer_sync_files(c)) != 0) return error;
        if (!piece) break;
        if (count == 0) {
            fd = piece->fd;
            start = end = piece->position;
        }
        vector[count].iov_base = (void *)(piece->octets ? piece->octets : batch->arena + piece->arena_offset);
        vector[count].iov_len = piece->length;
        end += piece->length;
        count++;
    }
    COMMITTER_SET(c->octets, c->octets + octets);
    return 0;
}

static inline void committer_ring(committer *c) {
    uint64_t one = 1;
    ssize_t n;
    do n = write(c->event_fd, &one, sizeof one);
    while (n < 0 && errno == EINTR);
}

static void *committer_main(void *argument) {
    committer *c = argument;
    pthread_mutex_lock(&c->mutex);
    for (;;) {
        /* wait for something to do: a full stop, a batch that somebody waits for, or a sync that has become due */
        int due = 0;
        while (!due) {
            int work = c->filling->count > 0 && (c->filling->must_sync || c->flush || c->stop);
            if (c->stalled) {
                if (c->stop) break;
            } else if (work || c->stop) {
                break;
            } else if (c->unsynced_count) {
                uint64_t now = committer_now_us(), at = c->unsynced_since_us + c->sync_interval_us;
                if (now >= at) {
                    due = 1;
                    break;
                }
                struct timespec until;
                clock_gettime(CLOCK_MONOTONIC, &until);
                uint64_t wait_us = at - now;
                until.tv_sec += (time_t)(wait_us / 1000000u);
                until.tv_nsec += (long)(wait_us % 1000000u) * 1000;
                if (until.tv_nsec >= 1000000000L) {
                    until.tv_sec++;
                    until.tv_nsec -= 1000000000L;
                }
                c->idle = 1;
                pthread_cond_timedwait(&c->wake, &c->mutex, &until);
                c->idle = 0;
                continue;
            }
            c->idle = 1;
            pthread_cond_wait(&c->wake, &c->mutex);
            c->idle = 0;
        }
        int stopping = c->stop;
        if (stopping && (c->stalled || (c->filling->count == 0 && c->unsynced_count == 0))) break;
        committer_batch *batch = c->filling;
        c->filling = c->writing;
        c->writing = batch;
        c->flush = 0;
        if (batch->sync_folder) c->folder_unsynced = 1;
        pthread_mutex_unlock(&c->mutex);

        int had_writes = batch->count > 0;
        uint64_t began = had_writes ? committer_now_us() : 0;
        int error = committer_write_batch(c, batch);
        if (!error) {
            if (had_writes) {
                COMMITTER_SET(c->write_us, c->write_us + (committer_now_us() - began));
                COMMITTER_SET(c->group_records, c->group_records + batch->count);
                COMMITTER_SET(c->groups, c->groups + 1);
                COMMITTER_SET(c->written, batch->last);
            }
            int must = batch->must_sync || stopping ||
                       (c->unsynced_count && committer_now_us() >= c->unsynced_since_us + c->sync_interval_us);
            if (must) {
                error = committer_sync(c);
                if (!error) COMMITTER_SET(c->synced, COMMITTER_GET(c->written));
            }
        }
        batch->count = 0;
        batch->arena_used = 0;
        batch->must_sync = 0;
        batch->sync_folder = 0;
        pthread_mutex_lock(&c->mutex);
        if (error) { /* stalled before it is published, or a quick restart would come too early */
            c->unsynced_count = 0; /* never sync these again */
            c->stalled = 1;
            COMMITTER_SET(c->error, error);
        }
        committer_ring(c);
    }
    pthread_mutex_unlock(&c->mutex);
    return NULL;
}

static inline committer *committer_new(int event_fd, int folder_fd, uint64_t sync_interval_us, const angarium_disk *disk) {
    committer *c = calloc(1, sizeof *c);
    pthread_condattr_t attributes;
    pthread_attr_t thread;
    if (!c) return NULL;
    c->filling = &c->batches[0];
    c->writing = &c->batches[1];
    c->disk = disk ? disk : &angarium_real_disk;
    c->event_fd = event_fd;
    c->folder_fd = folder_fd;
    c->sync_interval_us = sync_interval_us;
    c->failed_fd = -1;
    pthread_mutex_init(&c->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attributes);
    pthread_attr_init(&thread);
    pthread_attr_setstacksize(&thread, 256 * 1024);
    c->running = pthread_create(&c->thread, &thread, committer_main, c) == 0;
    pthread_attr_destroy(&thread);
    if (!c->running) {
        free(c);
        return NULL;
    }
    return c;
}

/* Another time between 250 and the disk for class async, from now on. */
static inline void committer_set_sync_interval(committer *c, uint64_t sync_interval_us) {
    pthread_mutex_lock(&c->mutex);
    c->sync_interval_us = sync_interval_us;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->mutex);
}

/* Put n octets for fd at position into the batch that fills. `copy`: they are copied, else they must stay until
 * written. `barrier`: see above. fd must stay open until the sequence number is `synced`.
 * Returns the sequence number, or 0 when no memory could be had. */
static inline uint64_t committer_put(committer *c, int fd, uint64_t position, const char *octets, size_t n, int copy,
                                     int must_sync, int new_file, int barrier) {
    uint64_t sequence = 0;
    pthread_mutex_lock(&c->mutex);
    committer_batch *b = c->filling;
    if (b->count == b->capacity) {
        size_t capacity = b->capacity ? b->capacity * 2 : 256;
        committer_piece *moved = realloc(b->pieces, capacity * sizeof *moved);
        if (!moved) goto out;
        b->pieces = moved;
        b->capacity = capacity;
    }
    if (copy && b->arena_used + n > b->arena_capacity) {
        size_t capacity = (b->arena_used + n) * 2;
        char *moved = realloc(b->arena, capacity);
        if (!moved) goto out;
        b->arena = moved;
        b->arena_capacity = capacity;
    }
    committer_piece *piece = &b->pieces[b->count++];
    piece->fd = fd;
    piece->position = position;
    piece->length = n;
    piece->barrier = barrier;
    piece->octets = copy ? NULL : octets;
    piece->arena_offset = b->arena_used;
    if (copy) {
        memcpy(b->arena + b->arena_used, octets, n);
        b->arena_used += n;
    }
    if (must_sync) b->must_sync = 1;
    if (new_file) b->sync_folder = 1;
    sequence = b->last = ++c->sequence;
out:
    pthread_mutex_unlock(&c->mutex);
    return sequence;
}

/* Let the thread go on: for a batch that somebody waits for, or (flush) for whatever there is. */
static inline void committer_kick(committer *c, int flush) {
    pthread_mutex_lock(&c->mutex);
    if (flush && c->filling->count) c->flush = 1;
    if (c->idle) pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->mutex);
}

/* After a failure: forget what was not written and take records again. The caller gives other files from now on, and
 * another descriptor of the folder: no sync is tried again where one failed. */
static inline void committer_restart(committer *c, int folder_fd) {
    pthread_mutex_lock(&c->mutex);
    c->folder_fd = folder_fd;
    for (int i = 0; i < 2; i++) {
        c->batches[i].count = 0;
        c->batches[i].arena_used = 0;
        c->batches[i].must_sync = 0;
        c->batches[i].sync_folder = 0;
    }
    c->unsynced_count = 0;
    c->folder_unsynced = 1;
    c->failed_fd = -1;
    COMMITTER_SET(c->written, c->sequence);
    COMMITTER_SET(c->synced, c->sequence);
    COMMITTER_SET(c->error, 0);
    c->stalled = 0;
    pthread_mutex_unlock(&c->mutex);
}

/* Write and sync what there is, and end the thread. What was published can still be read. */
static inline void committer_stop(committer *c) {
    if (!c->running) return;
    pthread_mutex_lock(&c->mutex);
    c->stop = 1;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->mutex);
    pthread_join(c->thread, NULL);
    c->running = 0;
}

static inline void committer_free(committer *c) {
    committer_stop(c);
    for (int i = 0; i < 2; i++) {
        free(c->batches[i].pieces);
        free(c->batches[i].arena);
    }
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->mutex);
    free(c);
}
#endif
