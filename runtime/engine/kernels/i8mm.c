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

#define QE_LANES 32
#include "neon_dot.h"

enum { PAIRS = 4 }; /* of tokens, and of rows, in a tile */

/* x: for each block and eight columns, eight bytes of each token. The rest as SMMLA's results
 * lie: rows 2 * i and 2 * i + 1 by tokens t and t + 1 are one vector. */
static void arrange(batch *p, const qe_act *act, size_t token, uint32_t first, uint32_t count,
                    int step)
{
    const size_t row = act->stride / 32;
    for (uint32_t b = 0; b < count; b++)
        for (uint32_t pair = 0; pair < PAIRS; pair++) {
            const size_t t = token + 2 * pair;
            const int8_t *q = act->q + t * act->stride + (size_t)(first + b) * 32;
            int8_t *x = p[b].x + 16 * pair;
            for (int part = 0; part < 2; part++, q += 16, x += 32 * PAIRS) {
                const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(q));
                const int64x2_t c = vreinterpretq_s64_s8(vld1q_s8(q + act->stride));
                vst1q_s8(x, vreinterpretq_s8_s64(vzip1q_s64(a, c)));
                vst1q_s8(x + 16 * PAIRS, vreinterpretq_s8_s64(vzip2q_s64(a, c)));
            }
        }
    for (uint32_t t = 0; t < TOKENS; t++) {
        const float *d = act->d + (token + t) * row + first;
        const int16_t *s = act->s + 2 * ((token + t) * row + first);
        for (uint32_t b = 0; b < count; b++, s += 2)
            for (uint32_t twice = 0; twice < 4; twice += 2) {
                const uint32_t at = t / 2 * 4 + t % 2 + twice;
                p[b].d[at] = d[b];
                if (step == QE_STEP_SCALED || step == QE_STEP_ROW)
                    continue;
                p[b].least[at] = d[b] * (float)qe_block_sum(s);
                p[b].sum[0][at] = s[0];
                p[b].sum[1][at] = s[1];
            }
    }
}

/* For each eight columns, rows 2 * i and 2 * i + 1 after one another. */
INLINE void keep_weights(int8_t *w, int half, int8x16_t v[2][8])
{
    for (int g = 0; g < 8; g += 2)
        for (int i = 0; i < 2; i++) {
            const int32x4_t low = vreinterpretq_s32_s8(v[i][g]),
                            high = vreinterpretq_s32_s8(v[i][g + 1]);
            int8_t *to = w + 64 * g + 64 * half + 32 * i;
            vst1q_s8(to, vreinterpretq_s8_s32(vzip1q_s32(low, high)));
            vst1q_s8(to + 16, vreinterpretq_s8_s32(vzip2q_s32(low, high)));
        }
}

/* Each twice. */
INLINE void keep_scales(void *to, int quarter, int32x4_t rows)
{
    vst1q_s32((int32_t *)to + 8 * quarter, vzip1q_s32(rows, rows));
    vst1q_s32((int32_t *)to + 8 * quarter + 4, vzip2q_s32(rows, rows));
}

/* Four vectors, of eight rows. */
INLINE void four_floats(const float *p, float32x4_t v[PAIRS])
{
    load_floats(p, &v[0], &v[1]);
    load_floats(p + 8, &v[2], &v[3]);
}

/* Eight rows by `pairs` pairs of tokens, from pair `from` on; of halves two pairs. */
INLINE void pairs_tile(int step, const panel *w, int half, uint32_t count, const batch *p,
                       int from, int pairs, float *out, size_t stride)
{
    const int halves = in_halves(step);
    const int32_t *start = start_of(step);
    float32x4_t acc[PAIRS][PAIRS];
    float *at = out;
#pragma GCC unroll 4
    for (int t = 0; t < pairs; t++, at += 2 * stride) {
        float32x4_t a[2], c[2];
        load_floats(at, &a[0], &a[1]);
        load_floats(at + stride, &c[0], &c[1]);
        for (int r = 0; r < 2; r++) {
            acc[t][2 * r] = vzip1q_f32(a[r], c[r]);
            acc[t][2 * r + 1] = vzip2q_f32(a[r], c[r]);
        }
    }
    for (uint32_t b = 0; b < count; b++, w++, p++) {
        int32x4_t isum[2][PAIRS][PAIRS];
#pragma GCC unroll 2
        for (int h = 0; h < 1 + halves; h++)
#pragma GCC unroll 4
            for (int t = 0; t < pairs; t++)
#pragma GCC unroll 2
                for (int r = 0; r < PAIRS; r += 2)
                    load_sums(start, &isum[h][t][r], &isum[h][t][r + 1]);
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            int8x16_t v[PAIRS], x[PAIRS];
            load_pair(w->w + 128 * g + 64 * half, &v[0], &v[1]);
            load_pair(w->w + 128 * g + 64 * half + 32, &v[2], &v[3]);
#pragma GCC unroll 2
            for (int t = 0; t < pairs; t += 2)
                load_pair(p->x + 64 * g + 16 * (from + t), &x[t], &x[t + 1]);
#pragma GCC unroll 4
            for (int t = 0; t < pairs; t++)
#pragma GCC unroll 4
                for (int r = 0; r < PAIRS; r++) {
                    int32x4_t *sum = &isum[halves ? g / 2 : 0][t][r];
                    *sum = vmmlaq_s32(*sum, v[r], x[t]);
                }
        }
        float32x4_t d[PAIRS], m[PAIRS];
        int32x4_t s[2][PAIRS];
        four_floats(w->d + 16 * half, d);
        if (step == QE_STEP_AFFINE)
            four_floats(w->m + 16 * half, m);
        for (int h = 0; h < 2 && halves; h++)
            for (int r = 0; r < PAIRS; r += 2)
                load_sums(w->s[h] + 16 * half + 4 * r, &s[h][r], &s[h][r + 1]);
#pragma GCC unroll 4
        for (int t = 0; t < pairs; t++) {
            const size_t tokens = 4 * (size_t)(from + t);
            const float32x4_t dx = vld1q_f32(p->d + tokens);
            if (step == QE_STEP_ROW)
                four_floats(w->m + 16 * half, m);
#pragma GCC unroll 4
            for (int r = 0; r < PAIRS; r++) {
                int32x4_t sum = isum[0][t][r];
                if (step == QE_STEP_ROW) {
                    const float32x4_t both = vfmaq_f32(m[r], vreinterpretq_f32_s32(sum), d[r]);
                    add_to(&acc[t][r], vmulq_f32(both, dx));
                    continue;
                }
                if (halves)
                    sum = vmlaq_s32(vmulq_s32(sum, s[0][r]), isum[1][t][r], s[1][r]);
                float32x4_t term = vmulq_f32(vmulq_f32(d[r], dx), vcvtq_f32_s32(sum));
                if (step == QE_STEP_AFFINE)
                    term = vaddq_f32(term, vmulq_f32(m[r], vld1q_f32(p->least + tokens)));
                if (step == QE_STEP_HALVES_MIN) {
                    const size_t rows = 16 * (size_t)half + 4 * (size_t)r;
                    const int32x4_t n = vmlaq_s32(
                        vmulq_s32(vld1q_s32(w->n[0] + rows), vld1q_s32(p->sum[0] + tokens)),
                        vld1q_s32(w->n[1] + rows), vld1q_s32(p->sum[1] + tokens));
                    term = vsubq_f32(term, vmulq_f32(vmulq_f32(vld1q_f32(w->m + rows), dx),
                                                     vcvtq_f32_s32(n)));
                }
                add_to(&acc[t][r], term);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < pairs; t++, out += 2 * stride)
        for (int r = 0; r < 2; r++) {
            vst1q_f32(out + 4 * r, vuzp1q_f32(acc[t][2 * r], acc[t][2 * r + 1]));
            vst1q_f32(out + stride + 4 * r, vuzp2q_f32(acc[t][2 * r], acc[t][2 * r + 1]));
        }
}

INLINE void tile(int step, const panel *w, int half, uint32_t count, const batch *p, float *out,
                 size_t stride)
{
    const int pairs = in_halves(step) ? PAIRS / 2 : PAIRS;
    for (int t = 0; t < PAIRS; t += pairs)
        pairs_tile(step, w, half, count, p, t, pairs, out + 2 * (size_t)t * stride, stride);
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
