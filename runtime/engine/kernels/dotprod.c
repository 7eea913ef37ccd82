/* dotprod.c - the AArch64 kernels for cores with SDOT (A76 and later): a lane owns a row, four
 * columns an instruction. */
#if defined(__aarch64__) && !defined(QE_PORTABLE_ONLY)
#include <arm_neon.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#pragma GCC optimize("no-schedule-insns")
#endif

#include "neon_dot.h"

/* x: for each block and four columns, four bytes of each token. */
static void arrange(panel *p, const qe_act *act, size_t token, uint32_t first, uint32_t count,
                    int q4)
{
    const size_t row = act->stride / 32;
    for (uint32_t b = 0; b < count; b++)
        for (uint32_t part = 0; part < 2; part++)
            for (uint32_t t = 0; t < TOKENS; t += 4) {
                const int8_t *q =
                    act->q + (token + t) * act->stride + (size_t)(first + b) * 32 + part * 16;
                int32x4_t v[4], pair[4];
                for (int i = 0; i < 4; i++)
                    v[i] = vreinterpretq_s32_s8(vld1q_s8(q + i * act->stride));
                for (int i = 0; i < 2; i++) { /* transpose 4 by 4 */
                    pair[i] = vzip1q_s32(v[i], v[i + 2]);
                    pair[i + 2] = vzip2q_s32(v[i], v[i + 2]);
                }
                int8_t *x = p[b].x + part * TOKENS * 16 + t * 4;
                for (int i = 0; i < 2; i++) {
                    vst1q_s32((int32_t *)(void *)(x + (2 * i) * TOKENS * 4),
                              vzip1q_s32(pair[2 * i], pair[2 * i + 1]));
                    vst1q_s32((int32_t *)(void *)(x + (2 * i + 1) * TOKENS * 4),
                              vzip2q_s32(pair[2 * i], pair[2 * i + 1]));
                }
            }
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t b = 0; b < count; b++) {
            p[b].d[t] = act->d[(token + t) * row + first + b];
            for (int r = 0; r < 8; r += 4)
                vst1q_s32(p[b].offset + 8 * t + r,
                          vdupq_n_s32(q4 ? -8 * qe_block_sum(act->s + 2 * ((token + t) * row +
                                                                           first + b))
                                         : 0));
        }
}

#define EACH_TOKEN(DO, r)                                                                      \
    DO(0, r) DO(1, r) DO(2, r) DO(3, r) DO(4, r) DO(5, r) DO(6, r) DO(7, r)

/* Rows 0..3 (low) and 4..7 (high) by four columns of all tokens. */
INLINE void four_columns(int32x4_t isum[TOKENS][2], int8x16_t low, int8x16_t high,
                         const int8_t *x)
{
    int8x16_t v[2];
    load_pair(x, &v[0], &v[1]);
#define PRODUCT(j, r)                                                                          \
    isum[j][r] = vdotq_laneq_s32(isum[j][r], r ? high : low, v[(j) / 4], (j) % 4);
    EACH_TOKEN(PRODUCT, 0)
    EACH_TOKEN(PRODUCT, 1)
#undef PRODUCT
}

INLINE void tile(const uint8_t *w, int half, int q4, uint32_t count, const panel *p, float *out,
                 size_t stride, int goes_on)
{
    float32x4_t acc[TOKENS][2];
    for (int j = 0; j < TOKENS; j++)
        for (int r = 0; r < 2; r++)
            acc[j][r] =
                goes_on ? vld1q_f32(out + (size_t)j * stride + 4 * r) : vdupq_n_f32(0.0f);
    for (uint32_t b = 0; b < count; b++, w += block_bytes(q4), p++) {
        const uint8_t *v = w + 32 + 32 * half;
        const int8_t *x = p->x;
        int32x4_t isum[TOKENS][2];
        for (int j = 0; j < TOKENS; j++) {
            int8x16_t offset[2];
            load_pair(p->offset + 8 * j, &offset[0], &offset[1]);
            for (int r = 0; r < 2; r++)
                isum[j][r] = vreinterpretq_s32_s8(offset[r]);
        }
        for (int g = 0; g < (q4 ? 4 : 8); g++, v += 64, x += 4 * TOKENS) {
            int8x16_t low, high;
            load_pair(v, &low, &high);
            if (q4) {
                four_columns(isum, low_nibbles(low), low_nibbles(high), x);
                four_columns(isum, high_nibbles(low), high_nibbles(high), x + 16 * TOKENS);
            } else {
                four_columns(isum, low, high, x);
            }
        }
        const float32x4_t dw[2] = {(float32x4_t)half_load(w + 16 * half),
                                   (float32x4_t)half_load(w + 16 * half + 8)};
        const float32x4_t dx[2] = {vld1q_f32(p->d), vld1q_f32(p->d + 4)};
#define SCALE(j, r)                                                                            \
    acc[j][r] = vaddq_f32(acc[j][r], vmulq_f32(vmulq_laneq_f32(dw[r], dx[(j) / 4], (j) % 4),   \
                                               vcvtq_f32_s32(isum[j][r])));
        EACH_TOKEN(SCALE, 0)
        EACH_TOKEN(SCALE, 1)
#undef SCALE
    }
    for (int j = 0; j < TOKENS; j++)
        for (int r = 0; r < 2; r++)
            vst1q_f32(out + (size_t)j * stride + 4 * r, acc[j][r]);
}

#define QE_SET qe_dotprod
#define QE_SET_NAME "dotprod"
#include "neon_set.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int qe_no_dotprod;
#endif
