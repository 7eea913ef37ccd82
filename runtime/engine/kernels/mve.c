/* mve.c - the kernels of Arm processors with vectors of integers: Cortex-M55. Their float
 * vectors flush subnormals and are not used. Equal to portable.c. */
#if defined(__arm__) && defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>

#include "fours_float.h"

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

/* Nibbles are 8 more than the weights. */
INLINE void sums_q4(const uint8_t *w, const columns *of, int32_t s, int32_t isum[4])
{
    const int8_t *x = *of;
    const uint32x4_t at = steps_of(16);
    const int8x16_t low = vldrbq_s8(x), high = vldrbq_s8(x + 16), nibble = vdupq_n_s8(15);
    for (int r = 0; r < 4; r++) {
        const int8x16_t both = row_words(w + 4 * r, at);
        const uint8x16_t upper = vshrq_n_u8(vreinterpretq_u8_s8(both), 4);
        const int32_t sum = vmladavaq_s8(-8 * s, vandq_s8(both, nibble), low);
        isum[r] = vmladavaq_s8(sum, vreinterpretq_s8_u8(upper), high);
    }
}

#include "fours.h"

const qe_kernels qe_mve = FOURS_SET("mve");
#else
typedef int qe_no_mve;
#endif
