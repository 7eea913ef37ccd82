/* i8mm.c - the AArch64 kernels for cores with SMMLA: two rows by two tokens by eight columns an
 * instruction, for many tokens; single tokens go by SDOT. */
#if defined(__aarch64__) && !defined(QE_PORTABLE_ONLY)
#include <arm_neon.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#pragma GCC optimize("no-schedule-insns") /* it spills what 32 registers hold */
#endif

#include "neon_dot.h"

enum { PAIRS = 4 }; /* of tokens, and of rows, in a tile */

/* x: for each block and eight columns, eight bytes of each token. offset and d as SMMLA's
 * results lie: rows 2 * i and 2 * i + 1 by tokens t and t + 1 are one vector. */
INLINE void arrange(panel *p, const qe_act *act, size_t token, uint32_t first, uint32_t count,
                    int q4)
{
    const size_t row = act->stride / 32;
    for (uint32_t b = 0; b < count; b++)
        for (uint32_t pair = 0; pair < PAIRS; pair++) {
            const size_t t = token + 2 * pair;
            const int8_t *q = act->q + t * act->stride + (size_t)(first + b) * 32;
            const float *d = act->d + t * row + first + b;
            const int16_t *s = act->s + 2 * (t * row + first + b);
            int8_t *x = p[b].x + 16 * pair;
            for (int part = 0; part < 2; part++, q += 16, x += 32 * PAIRS) {
                const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(q));
                const int64x2_t c = vreinterpretq_s64_s8(vld1q_s8(q + act->stride));
                vst1q_s8(x, vreinterpretq_s8_s64(vzip1q_s64(a, c)));
                vst1q_s8(x + 16 * PAIRS, vreinterpretq_s8_s64(vzip2q_s64(a, c)));
            }
            const int32x2_t offset = {q4 ? -8 * qe_block_sum(s) : 0,
                                      q4 ? -8 * qe_block_sum(s + 2 * row) : 0};
            for (int i = 0; i < PAIRS; i++)
                vst1q_s32(p[b].offset + 16 * pair + 4 * i, vcombine_s32(offset, offset));
            const float32x2_t both = {d[0], d[row]};
            vst1q_f32(p[b].d + 4 * pair, vcombine_f32(both, both));
        }
}

/* Eight rows by eight columns: w holds two rows a vector. */
INLINE void eight_columns(int32x4_t isum[PAIRS][PAIRS], const int8x16_t w[PAIRS],
                          const int8_t *x)
{
    int8x16_t v[PAIRS];
    load_pair(x, &v[0], &v[1]);
    load_pair(x + 32, &v[2], &v[3]);
    for (int t = 0; t < PAIRS; t++)
        for (int r = 0; r < PAIRS; r++)
            isum[t][r] = vmmlaq_s32(isum[t][r], w[r], v[t]);
}

/* Eight columns of eight rows, from two groups of four. */
INLINE void row_pairs(const uint8_t *v, int8x16_t w[PAIRS])
{
    int8x16_t a[2], c[2];
    load_pair(v, &a[0], &a[1]);
    load_pair(v + 64, &c[0], &c[1]);
    for (int i = 0; i < 2; i++) {
        const int32x4_t low = vreinterpretq_s32_s8(a[i]), high = vreinterpretq_s32_s8(c[i]);
        w[2 * i] = vreinterpretq_s8_s32(vzip1q_s32(low, high));
        w[2 * i + 1] = vreinterpretq_s8_s32(vzip2q_s32(low, high));
    }
}

INLINE void tile(const uint8_t *w, int half, int q4, uint32_t count, const panel *p, float *out,
                 size_t stride, int goes_on)
{
    float32x4_t acc[PAIRS][PAIRS];
    for (int t = 0; t < PAIRS; t++)
        for (int r = 0; r < PAIRS; r += 2) {
            const float *at = out + (size_t)t * 2 * stride + 2 * r;
            const float32x4_t a = goes_on ? vld1q_f32(at) : vdupq_n_f32(0.0f);
            const float32x4_t c = goes_on ? vld1q_f32(at + stride) : a;
            acc[t][r] = vzip1q_f32(a, c);
            acc[t][r + 1] = vzip2q_f32(a, c);
        }
    for (uint32_t b = 0; b < count; b++, w += block_bytes(q4), p++) {
        const uint8_t *v = w + 32 + 32 * half;
        const int8_t *x = p->x;
        int32x4_t isum[PAIRS][PAIRS];
        for (int t = 0; t < PAIRS; t++)
            for (int r = 0; r < PAIRS; r += 2) {
                int8x16_t offset[2];
                load_pair(p->offset + 16 * t + 4 * r, &offset[0], &offset[1]);
                for (int i = 0; i < 2; i++)
                    isum[t][r + i] = vreinterpretq_s32_s8(offset[i]);
            }
        for (int i = 0; i < (q4 ? 2 : 4); i++, v += 128, x += 16 * PAIRS) {
            int8x16_t bytes[PAIRS], low[PAIRS], high[PAIRS];
            row_pairs(v, bytes);
            for (int r = 0; r < PAIRS; r++) {
                low[r] = q4 ? low_nibbles(bytes[r]) : bytes[r];
                high[r] = high_nibbles(bytes[r]);
            }
            eight_columns(isum, low, x);
            if (q4)
                eight_columns(isum, high, x + 32 * PAIRS);
        }
        const float32x4_t d[2] = {(float32x4_t)half_load(w + 16 * half),
                                  (float32x4_t)half_load(w + 16 * half + 8)};
        const float32x4_t dw[PAIRS] = {vzip1q_f32(d[0], d[0]), vzip2q_f32(d[0], d[0]),
                                       vzip1q_f32(d[1], d[1]), vzip2q_f32(d[1], d[1])};
        for (int t = 0; t < PAIRS; t++) {
            const float32x4_t dx = vld1q_f32(p->d + 4 * t);
            for (int r = 0; r < PAIRS; r++)
                acc[t][r] = vaddq_f32(
                    acc[t][r], vmulq_f32(vmulq_f32(dw[r], dx), vcvtq_f32_s32(isum[t][r])));
        }
    }
    for (int t = 0; t < PAIRS; t++)
        for (int r = 0; r < PAIRS; r += 2) {
            float *at = out + (size_t)t * 2 * stride + 2 * r;
            vst1q_f32(at, vuzp1q_f32(acc[t][r], acc[t][r + 1]));
            vst1q_f32(at + stride, vuzp2q_f32(acc[t][r], acc[t][r + 1]));
        }
}

#define QE_SET qe_i8mm
#define QE_SET_NAME "i8mm"
#include "neon_set.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int qe_no_i8mm;
#endif
