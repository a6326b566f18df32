/* CRC-32C (Castagnoli, RFC 3720 appendix B.4): by the processor's instruction where there is one, else by tables. */
#ifndef ANGARIUM_CRC32C_H
#define ANGARIUM_CRC32C_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t angarium_crc32c_table[8][256] __attribute__((unused));
static int angarium_crc32c_ready __attribute__((unused)) = 0;

static inline void angarium_crc32c_build(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = (c & 1) ? (c >> 1) ^ 0x82f63b78u : c >> 1;
        angarium_crc32c_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            angarium_crc32c_table[t][i] =
                (angarium_crc32c_table[t - 1][i] >> 8) ^ angarium_crc32c_table[0][angarium_crc32c_table[t - 1][i] & 255];
    angarium_crc32c_ready = 1;
}

static inline uint32_t angarium_crc32c_portable(uint32_t crc, const unsigned char *p, size_t n) {
    if (!angarium_crc32c_ready) angarium_crc32c_build();
    while (n >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        w ^= crc;
        crc = angarium_crc32c_table[7][w & 255] ^ angarium_crc32c_table[6][(w >> 8) & 255] ^
              angarium_crc32c_table[5][(w >> 16) & 255] ^ angarium_crc32c_table[4][(w >> 24) & 255] ^
              angarium_crc32c_table[3][(w >> 32) & 255] ^ angarium_crc32c_table[2][(w >> 40) & 255] ^
              angarium_crc32c_table[1][(w >> 48) & 255] ^ angarium_crc32c_table[0][w >> 56];
        p += 8;
        n -= 8;
    }
    while (n--) crc = (crc >> 8) ^ angarium_crc32c_table[0][(crc ^ *p++) & 255];
    return crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>
__attribute__((target("sse4.2"))) static inline uint32_t angarium_crc32c_sse42(uint32_t crc, const unsigned char *p, size_t n) {
    uint64_t c = crc;
    while (n >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        c = _mm_crc32_u64(c, w);
        p += 8;
        n -= 8;
    }
    crc = (uint32_t)c;
    while (n--) crc = _mm_crc32_u8(crc, *p++);
    return crc;
}
#endif

/* Continues from `crc`, the value returned for the octets before (0 at the start). */
static inline uint32_t angarium_crc32c(uint32_t crc, const void *data, size_t n) {
    crc = ~crc;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return ~angarium_crc32c_sse42(crc, (const unsigned char *)data, n);
#endif
    return ~angarium_crc32c_portable(crc, (const unsigned char *)data, n);
}
#endif
