/* mve.c - the kernels of Arm processors with vectors of integers: Cortex-M55. Their float
 * vectors flush subnormals and are not used. Equal to portable.c. */
#if defined(__arm__) && defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>

#include "fours_float.h"

typedef const int8_t *columns; /* as they lie */

INLINE void prepare_q8(const int8_t *x, uint32_t n, columns *c)
{
    (void)n;
    *c = x;
}

INLINE void prepare(const int8_t *x, columns *c)
{
    *c = x;
}

/* A row's words, `step` bytes apart. */
INLINE int8x16_t row_words(const uint8_t *w, uint32x4_t at)
{
    return vreinterpretq_s8_s32(vldrwq_gather_offset_s32((const int32_t *)(const void *)w, at));
}

INLINE uint32x4_t steps_of(uint32_t step)
{
    return vmulq_n_u32(vidupq_n_u32(0, 1), step);
}

/* The columns of a last, short block of attention, four at a time. */
INLINE void sums_short(const uint8_t *w, size_t step, uint32_t n, const int8_t *x,
                       int32_t isum[4])
{
    for (int r = 0; r < 4; r++)
        isum[r] = 0;
    for (uint32_t i = 0; i < n; i += 4) {
        const uint32_t left = n - i < 4 ? n - i : 4;
        const mve_pred16_t words = vctp32q(left), bytes = vctp8q(left * 4);
        const int8x16_t four = vldrbq_z_s8(x + 4 * i, bytes);
        const uint32x4_t at = steps_of((uint32_t)step);
        for (int r = 0; r < 4; r++) {
            const int8x16_t row = vreinterpretq_s8_s32(vldrwq_gather_offset_z_s32(
                (const int32_t *)(const void *)(w + i * step + 4 * r), at, words));
            isum[r] = vmladavaq_p_s8(isum[r], row, four, bytes);
        }
    }
}

INLINE void sums_q8(const uint8_t *w, size_t step, uint32_t n, const columns *of,
                    int32_t isum[4])
{
    const int8_t *x = *of;
    if (n != 8) {
        sums_short(w, step, n, x, isum);
        return;
    }
    const uint32x4_t at = steps_of((uint32_t)step);
    const int8x16_t low = vldrbq_s8(x), high = vldrbq_s8(x + 16);
    for (int r = 0; r < 4; r++) {
        const int32_t sum = vmladavq_s8(row_words(w + 4 * r, at), low);
        isum[r] = vmladavaq_s8(sum, row_words(w + 4 * step + 4 * r, at), high);
    }
}

/* Of the word at p, byte b of lane k, from bit `first` + step * k on, moved up to bit `to`; the
 * rest of it is cleared by mask. */
INLINE uint8x16_t spread(const uint8_t *p, int first, int step, int to, uint8_t mask)
{
    const int32x4_t lane = vreinterpretq_s32_u32(vidupq_n_u32(0, 1));
    const int32x4_t up = vsubq_s32(vdupq_n_s32(to - first), vmulq_n_s32(lane, step));
    const uint32x4_t word = vdupq_n_u32(word_at(p));
    return vandq_u8(vreinterpretq_u8_u32(vshlq_u32(word, up)), vdupq_n_u8(mask));
}

/* The levels of a row, columns 0 .. 15 and 16 .. 31: its words begin at w. */
typedef struct {
    uint8x16_t half[2];
} row_levels;

INLINE row_levels levels_at(const uint8_t *w, uint32_t bits)
{
    row_levels q;
    if (bits >= 4) {
        const uint8x16_t both = vreinterpretq_u8_s8(row_words(w, steps_of(16)));
        q.half[0] = vandq_u8(both, vdupq_n_u8(15));
        q.half[1] = vshrq_n_u8(both, 4);
    }
    for (int h = 0; h < 2; h++) {
        const int bit = 4 * h;
        if (bits == 6)
            q.half[h] = vorrq_u8(q.half[h], spread(w + 64 + 16 * h, 0, 2, 4, 0x30));
        if (bits == 5)
            q.half[h] = vorrq_u8(q.half[h], spread(w + 64, bit, 1, 4, 0x10));
        if (bits == 3 || bits == 2)
            q.half[h] = spread(w + 16 * h, 0, 2, 0, 3);
        if (bits == 3)
            q.half[h] = vorrq_u8(q.half[h], spread(w + 32, bit, 1, 2, 4));
        if (bits == 1)
            q.half[h] = spread(w, bit, 1, 1, 2);
    }
    return q;
}

INLINE void sums_of(const uint8_t *w, uint32_t bits, const columns *of, int32_t *isum,
                    int apart)
{
    const int8x16_t low = vldrbq_s8(*of), high = vldrbq_s8(*of + 16);
    for (int r = 0; r < 4; r++) {
        const row_levels q = levels_at(w + 4 * r, bits);
        const int32_t sum = vmladavq_s8(vreinterpretq_s8_u8(q.half[0]), low);
        const int8x16_t second = vreinterpretq_s8_u8(q.half[1]);
        isum[r] = apart ? sum : vmladavaq_s8(sum, second, high);
        if (apart)
            isum[4 + r] = vmladavq_s8(second, high);
    }
}

APART void sums_whole(const uint8_t *w, uint32_t bits, const columns *c, int32_t isum[4])
{
    switch (bits) {
    case 1: sums_of(w, 1, c, isum, 0); break;
    case 2: sums_of(w, 2, c, isum, 0); break;
    case 3: sums_of(w, 3, c, isum, 0); break;
    case 4: sums_of(w, 4, c, isum, 0); break;
    case 5: sums_of(w, 5, c, isum, 0); break;
    default: sums_of(w, 6, c, isum, 0);
    }
}

INLINE void sums(const uint8_t *w, uint32_t bits, int any, const columns *c, int32_t isum[4])
{
    if (bits == 4 && !any)
        sums_of(w, 4, c, isum, 0);
    else
        sums_whole(w, bits, c, isum);
}

APART void sums_halves(const uint8_t *w, uint32_t bits, const columns *c, int32_t isum[8])
{
    switch (bits) {
    case 2: sums_of(w, 2, c, isum, 1); break;
    case 3: sums_of(w, 3, c, isum, 1); break;
    default: sums_of(w, 6, c, isum, 1);
    }
}

#include "fours.h"

const qe_kernels qe_mve = FOURS_SET("mve");
#else
typedef int qe_no_mve;
#endif
