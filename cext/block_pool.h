/* Blocks of one size for the mail data of small messages, which come and go by the thousand.
 *
 * On the general heap whatever lives longer keeps the pages between them: after a burst the process never shrinks.
 * Here they lie in chunks of their own, mapped one by one; a chunk in which nothing is left goes back to the
 * kernel, but for BLOCK_POOL_KEPT of them. Blocks come from the chunk that was last in use again, so that the others empty.
 * Not safe for several threads at once: callers hold the GIL.
 */
#ifndef ANGARIUM_BLOCK_POOL_H
#define ANGARIUM_BLOCK_POOL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#define BLOCK_POOL_BLOCK 4096
#define BLOCK_POOL_CHUNK ((size_t)1 << 20)
#define BLOCK_POOL_KEPT 16
#define BLOCK_POOL_BLOCKS (BLOCK_POOL_CHUNK / BLOCK_POOL_BLOCK - 1) /* the first holds the chunk's own data */

typedef struct block_chunk {
    struct block_chunk *next, *previous; /* among those that have free blocks */
    void *free;                          /* blocks that came back: each begins with the address of the next */
    size_t used, touched;                /* blocks in use; blocks that were ever in use */
} block_chunk;

static block_chunk *block_pool_first; /* chunks with free blocks */
static size_t block_pool_chunks, block_pool_empty;

static inline void block_pool_link(block_chunk *c) {
    c->previous = NULL;
    c->next = block_pool_first;
    if (c->next) c->next->previous = c;
    block_pool_first = c;
}

static inline void block_pool_unlink(block_chunk *c) {
    if (c->next) c->next->previous = c->previous;
    if (c->previous)
        c->previous->next = c->next;
    else
        block_pool_first = c->next;
}

static inline block_chunk *block_pool_map(void) {
    char *region = (char *)mmap(NULL, 2 * BLOCK_POOL_CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == (char *)MAP_FAILED) return NULL;
    char *chunk = (char *)(((uintptr_t)region + BLOCK_POOL_CHUNK - 1) & ~(uintptr_t)(BLOCK_POOL_CHUNK - 1));
    if (chunk > region) munmap(region, (size_t)(chunk - region));
    munmap(chunk + BLOCK_POOL_CHUNK, (size_t)(region + BLOCK_POOL_CHUNK - chunk));
    block_pool_chunks++;
    block_pool_empty++;
    return (block_chunk *)chunk; /* zeroed by the kernel */
}

/* A block, or NULL when no memory can be had. */
static inline void *block_pool_take(void) {
    block_chunk *c = block_pool_first;
    void *block;
    if (!c) {
        c = block_pool_map();
        if (!c) return NULL;
        block_pool_link(c);
    }
    if (c->used == 0) block_pool_empty--;
    c->used++;
    if (c->free) {
        block = c->free;
        c->free = *(void **)block;
    } else {
        block = (char *)c + BLOCK_POOL_BLOCK * (1 + c->touched++);
    }
    if (!c->free && c->touched == BLOCK_POOL_BLOCKS) block_pool_unlink(c);
    return block;
}

static inline void block_pool_give(void *block) {
    block_chunk *c = (block_chunk *)((uintptr_t)block & ~(uintptr_t)(BLOCK_POOL_CHUNK - 1));
    int was_full = !c->free && c->touched == BLOCK_POOL_BLOCKS;
    *(void **)block = c->free;
    c->free = block;
    if (was_full) block_pool_link(c);
    if (--c->used > 0) return;
    if (block_pool_empty >= BLOCK_POOL_KEPT) {
        block_pool_unlink(c);
        block_pool_chunks--;
        munmap(c, BLOCK_POOL_CHUNK);
    } else {
        block_pool_empty++;
    }
}

/* Chunks in which nothing is left go back to the kernel now, all but `kept` of them. */
static inline void block_pool_trim(size_t kept) {
    block_chunk *c = block_pool_first;
    while (c && block_pool_empty > kept) {
        block_chunk *next = c->next;
        if (c->used == 0) {
            block_pool_unlink(c);
            block_pool_chunks--;
            block_pool_empty--;
            munmap(c, BLOCK_POOL_CHUNK);
        }
        c = next;
    }
}
#endif
