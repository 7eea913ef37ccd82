/* thumb.c - the kernels of processors without any products of several numbers: Cortex-M0+ and
 * M3. A 32-bit product does two columns of q4_0 at a time. Plain C, so that any machine can
 * check it (QE_WITH_THUMB). Equal to portable.c. */
#if defined(QE_WITH_THUMB) ||                                                                  \
    (defined(__thumb__) && !defined(__ARM_FEATURE_SIMD32) && !defined(__linux__))
#include "kernels.h"
#include "soft.h"

#define INLINE static inline __attribute__((always_inline))
#define FOURS_AT_ONCE 4

typedef int32_t columns[32]; /* q8: each by itself; q4: pairs as crossed() has them */

INLINE void prepare_q8(const int8_t *x, uint32_t n, columns *c)
{
    for (uint32_t i = 0; i < 4 * n; i++)
        (*c)[i] = x[i];
}

INLINE uint32_t word_at(const void *p)
{
    return *(const uint32_t *)__builtin_assume_aligned(p, 4);
}

INLINE int32_t byte_of(uint32_t word, int i) /* signed */
{
    return (int32_t)(word << (24 - 8 * i)) >> 24;
}

INLINE void sums_q8(const uint8_t *w, size_t step, uint32_t n, const columns *c,
                    int32_t isum[4])
{
    for (int r = 0; r < 4; r++, w += 4) {
        const uint8_t *row = w;
        int32_t sum = 0;
        for (const int32_t *x = *c, *end = x + 4 * n; x < end; x += 4, row += step) {
            const uint32_t word = word_at(row);
            sum += byte_of(word, 0) * x[0] + byte_of(word, 1) * x[1] + byte_of(word, 2) * x[2] +
                   byte_of(word, 3) * x[3];
        }
        isum[r] = sum;
    }
}

/* For nibbles u0, u2 in the halves of one word and columns x2, x0 in another, the product is
 * u0 x2 + (u0 x0 + u2 x2) 2^16 modulo 2^32. Summed over a block, the low half stays within 16
 * signed bits (16 products of at most 15 * 127), so the upper half comes out exactly, modulo
 * 2^16; and less 8 times the sum of x, as nibbles are 8 more than weights, it is the true sum,
 * which has 16 bits too (32 products of at most 8 * 127). */
INLINE int32_t crossed(int32_t x0, int32_t x2)
{
    return (int32_t)(((uint32_t)x0 << 16) + (uint32_t)x2);
}

INLINE int32_t uncrossed(uint32_t sum, int32_t s)
{
    const uint32_t low = (uint32_t)(int32_t)(int16_t)sum;
    return (int16_t)(uint16_t)(((sum - low) >> 16) - 8u * (uint32_t)s);
}

INLINE void prepare_q4(const int8_t *x, columns *c)
{
    int32_t *to = *c;
    for (int j = 0; j < 16; j += 4, x += 4, to += 4) {
        to[0] = crossed(x[0], x[2]);
        to[1] = crossed(x[16], x[18]);
        to[2] = crossed(x[1], x[3]);
        to[3] = crossed(x[17], x[19]);
    }
}

INLINE void sums_q4(const uint8_t *w, const columns *c, int32_t s, int32_t isum[4])
{
    for (int r = 0; r < 4; r++, w += 4) {
        uint32_t sum = 0;
        for (int i = 0; i < 4; i++) {
            const uint32_t word = word_at(w + 16 * i), mask = 0x000F000F;
            const int32_t *x = *c + 4 * i;
            sum += (word & mask) * (uint32_t)x[0] + (word >> 4 & mask) * (uint32_t)x[1] +
                   (word >> 8 & mask) * (uint32_t)x[2] + (word >> 12 & mask) * (uint32_t)x[3];
        }
        isum[r] = uncrossed(sum, s);
    }
}

INLINE void add_block(float acc[4], const uint8_t *scales, float d, const int32_t isum[4])
{
    for (int r = 0; r < 4; r++) {
        const uint32_t scale = soft_mul_half(qe_load16(scales + 2 * r), qe_bits(d));
        acc[r] = qe_float(soft_add(qe_bits(acc[r]), soft_mul_int(scale, isum[r])));
    }
}

INLINE float add_scaled(float to, float d, int32_t isum)
{
    return qe_float(soft_add(qe_bits(to), soft_mul_int(qe_bits(d), isum)));
}

#include "fours.h"

const qe_kernels qe_thumb = FOURS_SET("thumb");
#else
typedef int qe_no_thumb;
#endif
