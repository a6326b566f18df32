/* The inner loops of mail_data.pyx, RFC 5321 §4.5.2: end of data, transparency, line facts, dot-stuffing.
 *
 * A block of 64 octets becomes two masks, CR and LF. Shifting the CR mask by one octet says which octets stand behind a
 * CR; where that agrees with the LF mask there are CRLFs, where it does not there is a bare CR or a bare LF. Only an
 * octet behind a CRLF can be a dot that matters, so dots are looked at once a line. The copy is unconditional.
 */
#ifndef ANGARIUM_MAIL_DATA_LOOP_H
#define ANGARIUM_MAIL_DATA_LOOP_H

#include "mail_data_scan.h"
#include "octet_block.h"

OCTET_BLOCK_INLINE uint32_t mail_data_saturate(uint64_t length) {
    return length > UINT32_MAX ? UINT32_MAX : (uint32_t)length;
}

/* One call's work. `unstuff` 0: a BDAT chunk, where dots mean nothing and nothing ends. `copy` 0: dst is not touched.
 *
 * dst needs n + 1 octets: a CR held back behind a dot may come out on top of src. A whole block is stored even when
 * only its beginning is taken; dst lags behind src or leads by that one octet, so this stays within n + 1.
 */
OCTET_BLOCK_INLINE int mail_data_run(MailDataScan *scan, const unsigned char *restrict src, size_t n,
                                     unsigned char *restrict dst, size_t *consumed, size_t *produced,
                                     const int unstuff, const int copy, const int portable) {
    size_t i = 0, o = 0;
    uint64_t behind_cr = 0;   /* 1: the octet before src[i] was a CR of this line */
    int64_t line_start = 0;   /* where the line began, as an offset from src: negative if in an earlier call */
    uint64_t longest = scan->longest_line;
    uint64_t over_127 = 0, nul = 0;
    int at_dot = 0;           /* src[i] is a dot that begins a line */
    int ended = 0;
    uint8_t state;

    *consumed = *produced = 0;
    if (scan->state == MAIL_DATA_ENDED)
        return 1;
    if (n == 0)
        return 0;

    switch (scan->state) {
    case MAIL_DATA_LINE_START:
        at_dot = unstuff && src[0] == '.';
        break;
    case MAIL_DATA_LINE:
        line_start = -(int64_t)scan->line_length;
        break;
    case MAIL_DATA_CR:
        line_start = -(int64_t)scan->line_length - 1;
        behind_cr = 1;
        break;
    case MAIL_DATA_DOT:
        if (src[0] != '\r')
            break; /* the dot is dropped, the line goes on with src[0] */
        if (n == 1) {
            *consumed = 1;
            scan->state = MAIL_DATA_DOT_CR;
            return 0;
        }
        if (src[1] == '\n') {
            *consumed = 2;
            scan->state = MAIL_DATA_ENDED;
            return 1;
        }
        break;
    case MAIL_DATA_DOT_CR:
        if (src[0] == '\n') {
            *consumed = 1;
            scan->state = MAIL_DATA_ENDED;
            return 1;
        }
        if (copy)
            dst[0] = '\r'; /* the dot is dropped, the CR is data, and bare */
        o = 1;
        line_start = -1;
        behind_cr = 1;
        break;
    }

    for (;;) {
        if (at_dot) {
            if (i + 1 == n) {
                state = MAIL_DATA_DOT;
                i = n;
                break;
            }
            if (src[i + 1] == '\r') {
                if (i + 2 == n) {
                    state = MAIL_DATA_DOT_CR;
                    i = n;
                    break;
                }
                if (src[i + 2] == '\n') {
                    state = MAIL_DATA_ENDED;
                    i += 3;
                    ended = 1;
                    break;
                }
            }
            i += 1;
            line_start = (int64_t)i;
            at_dot = 0;
        }

        unsigned char padded[OCTET_BLOCK];
        const unsigned char *p;
        size_t left = n - i, take;
        unsigned skip = 0; /* octets at the start of the block that have been taken before */
        if (left >= OCTET_BLOCK) {
            p = src + i;
            left = OCTET_BLOCK;
            if (copy)
                memcpy(dst + o, p, OCTET_BLOCK);
        } else if (n >= OCTET_BLOCK) {
            p = src + n - OCTET_BLOCK;
            skip = (unsigned)(OCTET_BLOCK - left);
        } else {
            memset(padded, 'a', sizeof padded);
            memcpy(padded, src + i, left);
            p = padded;
        }
        const uint64_t cr = block_equal(p, '\r', portable) >> skip, lf = block_equal(p, '\n', portable) >> skip;
        const uint64_t after_cr = cr << 1 | behind_cr;

        take = left;
        for (uint64_t ends = lf & after_cr; ends != 0; ends &= ends - 1) {
            const size_t k = (size_t)__builtin_ctzll(ends) + 1, next = i + k;
            const uint64_t length = (uint64_t)((int64_t)next - 2 - line_start);
            longest = length > longest ? length : longest;
            line_start = (int64_t)next;
            if (unstuff && next < n && src[next] == '.') {
                at_dot = 1;
                take = k;
                break;
            }
        }

        const uint64_t low = OCTET_BLOCK_LOW(take);
        const uint64_t bare = (lf ^ after_cr) & low;
        if (__builtin_expect(bare != 0, 0)) {
            scan->bare_cr |= (bare & after_cr) != 0;
            scan->bare_lf |= (bare & lf) != 0;
        }
        if (take == left) {
            block_any_unusual(p, &over_127, &nul, portable);
        } else { /* what stands behind a dot may be commands, and those are not mail data */
            over_127 |= block_over_127(p, portable) >> skip & low;
            nul |= block_equal(p, 0, portable) >> skip & low;
        }
        if (copy && left < OCTET_BLOCK)
            memcpy(dst + o, src + i, take);
        behind_cr = cr >> (take - 1) & 1;
        i += take;
        o += take;
        if (i == n) {
            state = behind_cr ? MAIL_DATA_CR : line_start == (int64_t)n ? MAIL_DATA_LINE_START : MAIL_DATA_LINE;
            break;
        }
    }

    const uint64_t length =
        state == MAIL_DATA_LINE || state == MAIL_DATA_CR ? (uint64_t)((int64_t)(n - behind_cr) - line_start) : 0;
    scan->state = state;
    scan->line_length = mail_data_saturate(length);
    scan->longest_line = mail_data_saturate(length > longest ? length : longest);
    scan->eight_bit |= over_127 != 0;
    scan->nul |= nul != 0;
    scan->octets += o;
    *consumed = i;
    *produced = o;
    return ended;
}

static int mail_data_copy(MailDataScan *scan, const char *src, size_t n, char *dst, size_t *consumed,
                          size_t *produced) {
    return mail_data_run(scan, (const unsigned char *)src, n, (unsigned char *)dst, consumed, produced, 1, 1, 0);
}

static int mail_data_drain(MailDataScan *scan, const char *src, size_t n, size_t *consumed, size_t *produced) {
    return mail_data_run(scan, (const unsigned char *)src, n, NULL, consumed, produced, 1, 0, 0);
}

static void mail_data_chunk(MailDataScan *scan, const char *src, size_t n) {
    size_t consumed, produced;
    mail_data_run(scan, (const unsigned char *)src, n, NULL, &consumed, &produced, 0, 0, 0);
}

/* The same by 64-bit arithmetic alone, as machines without SSE2 run it. */
static int mail_data_copy_portable(MailDataScan *scan, const char *src, size_t n, char *dst, size_t *consumed,
                                   size_t *produced) {
    return mail_data_run(scan, (const unsigned char *)src, n, (unsigned char *)dst, consumed, produced, 1, 1, 1);
}

/* ---- the way out ---- */

/* Dots to be doubled, in src[*i:]: returns a mask relative to the block's start, which it puts into *at, and moves *i
 * behind the block. Call with *i = 2 at first (octet 0 is the caller's, octet 1 has no room for a CRLF before it). */
OCTET_BLOCK_INLINE uint64_t stuffing_next(const unsigned char *src, size_t n, size_t *i, size_t *at,
                                          const int portable) {
    const size_t left = n - *i;
    *at = *i;
    if (left >= OCTET_BLOCK) {
        *i += OCTET_BLOCK;
        return block_dots_behind_crlf(src + *at, portable);
    }
    *i = n;
    if (n >= OCTET_BLOCK + 2)
        return block_dots_behind_crlf(src + n - OCTET_BLOCK, portable) >> (OCTET_BLOCK - left);
    uint64_t mask = 0;
    for (size_t k = 0; k < left; k++) {
        const unsigned char *p = src + *at + k;
        mask |= (uint64_t)(p[0] == '.' && p[-1] == '\n' && p[-2] == '\r') << k;
    }
    return mask;
}

OCTET_BLOCK_INLINE size_t stuffing_count(const unsigned char *src, size_t n, const int portable) {
    size_t count = n > 0 && src[0] == '.';
    for (size_t i = 2, at; i < n;) {
        const uint64_t dots = stuffing_next(src, n, &i, &at, portable);
        if (__builtin_expect(dots != 0, 0))
            count += (size_t)__builtin_popcountll(dots);
    }
    return count;
}

OCTET_BLOCK_INLINE size_t stuffing_write(const unsigned char *restrict src, size_t n, unsigned char *restrict dst,
                                         const int portable) {
    size_t o = 0, done = 0;
    if (n > 0 && src[0] == '.')
        dst[o++] = '.';
    for (size_t i = 2, at; i < n;) {
        for (uint64_t dots = stuffing_next(src, n, &i, &at, portable); dots != 0; dots &= dots - 1) {
            const size_t dot = at + (size_t)__builtin_ctzll(dots);
            memcpy(dst + o, src + done, dot - done);
            o += dot - done;
            dst[o++] = '.';
            done = dot;
        }
    }
    if (n > done)
        memcpy(dst + o, src + done, n - done);
    return o + (n - done);
}

static size_t stuffing_count_fast(const char *src, size_t n) {
    return stuffing_count((const unsigned char *)src, n, 0);
}

static size_t stuffing_write_fast(const char *src, size_t n, char *dst) {
    return stuffing_write((const unsigned char *)src, n, (unsigned char *)dst, 0);
}

static size_t stuffing_count_portable(const char *src, size_t n) {
    return stuffing_count((const unsigned char *)src, n, 1);
}

static size_t stuffing_write_portable(const char *src, size_t n, char *dst) {
    return stuffing_write((const unsigned char *)src, n, (unsigned char *)dst, 1);
}

#endif
