/* thumb.c - the kernels of processors without any products of several numbers: Cortex-M0+ and
 * M3. A 32-bit product does two columns of q4_0 at a time. Plain C, so that any machine can
 * check it (QE_WITH_THUMB). Equal to portable.c. */
#if defined(QE_WITH_THUMB) ||                                                                  \
    (defined(__thumb__) && !defined(__ARM_FEATURE_SIMD32) && !defined(__linux__))
#include "fours_base.h"
#include "soft.h"

#define FOURS_HOT 0

typedef int32_t columns[32]; /* q8: each by itself; else the even and the odd two of a four */

INLINE void prepare_q8(const int8_t *x, uint32_t n, columns *c)
{
    for (uint32_t i = 0; i < 4 * n; i++)
        (*c)[i] = x[i];
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

/* For levels u0, u2 in the halves of one word and columns x2, x0 in another, the product is
 * u0 x2 + (u0 x0 + u2 x2) 2^16 modulo 2^32. Summed over half a block, the low half stays within
 * 16 signed bits (8 products of at most 15 * 127), as does the upper one (16 of them): so it
 * comes out exactly. */
INLINE void prepare(const int8_t *x, columns *c)
{
    for (int32_t i = 0, *to = *c; i < 32; i += 4, to += 2) {
        to[0] = (int32_t)(((uint32_t)x[i] << 16) + (uint32_t)x[i + 2]);
        to[1] = (int32_t)(((uint32_t)x[i + 1] << 16) + (uint32_t)x[i + 3]);
    }
}

INLINE int32_t uncrossed(uint32_t sum)
{
    return (int32_t)(sum - (uint32_t)(int16_t)sum) >> 16;
}

/* The empty assembly keeps the compiler from adding in another order, for which an M0+ has no
 * registers. */
#define ADD_PRODUCT(sum, levels, x)                                                            \
    sum += (levels) * (uint32_t)(x);                                                           \
    __asm__("" : "+r"(sum))

/* A mask that stays in its register, from which an M3 takes it together with a shift. */
INLINE uint32_t mask_of(uint32_t mask)
{
    __asm__("" : "+r"(mask));
    return mask;
}

/* The levels that begin at bit `from` of each byte of a word, four columns. */
#define ADD_FOUR(sum, word, from, mask, x)                                                     \
    ADD_PRODUCT(sum, (word) >> (from) & (mask), (x)[0]);                                       \
    ADD_PRODUCT(sum, (word) >> ((from) + 8) & (mask), (x)[1])

INLINE int32_t half_nibbles(const uint8_t *w, const int32_t *x, int from)
{
    const uint32_t mask = mask_of(0x000F000F);
    uint32_t sum = 0;
    for (int i = 0; i < 4; i++, w += 16, x += 2) {
        const uint32_t word = word_at(w);
        ADD_FOUR(sum, word, from, mask, x);
    }
    return uncrossed(sum);
}

APART void nibbles_of_both(const uint8_t *w, const int32_t *x, int32_t *isum)
{
    for (int r = 0; r < 4; r++, w += 4) {
        const int32_t first = half_nibbles(w, x, 0);
#if defined(__ARM_ARCH_6M__) /* or it would keep the words, for which there is no room */
        __asm__("" : "+r"(w));
#endif
        isum[r] = first + half_nibbles(w, x + 8, 4);
    }
}

INLINE void nibbles(const uint8_t *w, const columns *c, int32_t *isum, uint32_t apart)
{
    if (!apart) {
        nibbles_of_both(w, *c, isum);
        return;
    }
    for (int r = 0; r < 4; r++, w += 4) {
        isum[r] = half_nibbles(w, *c, 0);
        isum[4 + r] = half_nibbles(w, *c + 8, 4);
    }
}

INLINE void add_crumbs(const uint8_t *w, const columns *c, int32_t times, int32_t *isum,
                       uint32_t apart)
{
    const uint32_t mask = mask_of(0x00030003);
    const int32_t *x = *c;
    for (int half = 0; half < 2; half++, x += 8, isum += apart)
        for (int r = 0; r < 4; r++, w += 4) {
            const uint32_t word = word_at(w);
            uint32_t sum = 0;
            ADD_FOUR(sum, word, 0, mask, x);
            ADD_FOUR(sum, word, 2, mask, x + 2);
            ADD_FOUR(sum, word, 4, mask, x + 4);
            ADD_FOUR(sum, word, 6, mask, x + 6);
            isum[r] += uncrossed(sum) * times;
        }
}

INLINE void add_bits(const uint8_t *w, const columns *c, int32_t times, int32_t *isum,
                     uint32_t apart)
{
    const uint32_t mask = mask_of(0x00010001);
    const int32_t *x = *c;
    for (int half = 0; half < 2; half++, x += 8, isum += apart)
        for (int r = 0; r < 4; r++) {
            const uint32_t word = word_at(w + 4 * r) >> 4 * half;
            uint32_t sum = 0;
            ADD_FOUR(sum, word, 0, mask, x);
            ADD_FOUR(sum, word, 1, mask, x + 2);
            ADD_FOUR(sum, word, 2, mask, x + 4);
            ADD_FOUR(sum, word, 3, mask, x + 6);
            isum[r] += uncrossed(sum) * times;
        }
}

#include "fours_planes.h"

/* Each by itself, as an M0+ has registers for no more. */
APART uint32_t soft_half(uint16_t half, uint32_t x)
{
    return soft_mul_half(half, x);
}

APART uint32_t soft_product(uint32_t x, int32_t n)
{
    return soft_mul_int(x, n);
}

APART uint32_t soft_sum(uint32_t a, uint32_t b)
{
    return soft_add(a, b);
}

INLINE float half_at(const uint8_t *p)
{
    return qe_half_to_float(qe_load16(p));
}

INLINE float half_times(const uint8_t *p, float x)
{
    return qe_float(soft_half(*(const uint16_t *)__builtin_assume_aligned(p, 2), qe_bits(x)));
}

INLINE float product(float x, int32_t n)
{
    return qe_float(soft_product(qe_bits(x), n));
}

INLINE float add_product(float to, float x, int32_t n)
{
    return qe_float(soft_sum(qe_bits(to), soft_product(qe_bits(x), n)));
}

#include "fours.h"

const qe_kernels qe_thumb = FOURS_SET("thumb");
#else
typedef int qe_no_thumb;
#endif
