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

#define QE_LANES 16
#include "neon_dot.h"

/* x: for each block and four columns, four bytes of each token. */
static void arrange(batch *p, const qe_act *act, size_t token, uint32_t first, uint32_t count,
                    int step)
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
    for (uint32_t t = 0; t < TOKENS; t++) {
        const float *d = act->d + (token + t) * row + first;
        const int16_t *s = act->s + 2 * ((token + t) * row + first);
        for (uint32_t b = 0; b < count; b++, s += 2) {
            p[b].d[t] = d[b];
            if (step == QE_STEP_SCALED || step == QE_STEP_ROW)
                continue;
            p[b].least[t] = d[b] * (float)qe_block_sum(s);
            p[b].sum[0][t] = s[0];
            p[b].sum[1][t] = s[1];
        }
    }
}

/* A group's rows as they come: four columns of 16 rows after the other. */
INLINE void keep_weights(int8_t *w, int half, int8x16_t v[2][8])
{
    for (int g = 0; g < 8; g++)
        for (int i = 0; i < 2; i++)
            vst1q_s8(w + 64 * g + 32 * half + 16 * i, v[i][g]);
}

INLINE void keep_scales(void *to, int quarter, int32x4_t rows)
{
    vst1q_s32((int32_t *)to + 4 * quarter, rows);
}

enum { HELD = 8 }; /* of a tile's tokens: their sums stay in registers */

/* acc goes on by a block of eight rows and token j of eight. */
INLINE void add_products(int step, float32x4_t acc[2], const int32x4_t isum[2], const panel *w,
                         int half, const float32x4_t d[2], const float32x4_t dx[2],
                         const batch *p, int j)
{
    float32x4_t m[2], term[2];
    if (step != QE_STEP_SCALED)
        load_floats(w->m + 8 * half, &m[0], &m[1]);
#pragma GCC unroll 2
    for (int r = 0; r < 2; r++) {
        if (step == QE_STEP_ROW)
            term[r] = by_token(vfmaq_f32(m[r], vreinterpretq_f32_s32(isum[r]), d[r]), dx[j / 4],
                               j % 4);
        else
            term[r] = vmulq_f32(by_token(d[r], dx[j / 4], j % 4), vcvtq_f32_s32(isum[r]));
        if (step == QE_STEP_AFFINE)
            term[r] =
                vaddq_f32(term[r], by_token(m[r], vld1q_f32(p->least + j / 4 * 4), j % 4));
        add_to(&acc[r], term[r]);
    }
}

/* Eight rows by eight tokens. What 32 registers do not hold, the sums of some tokens, goes on
 * in out. */
INLINE void whole_tile(int step, const panel *w, int half, uint32_t count, const batch *p,
                       float *out, size_t stride)
{
    float32x4_t acc[TOKENS][2];
    const int32_t *start = start_of(step);
    float *at = out;
#pragma GCC unroll 8
    for (int j = 0; j < HELD; j++, at += stride)
        load_floats(at, &acc[j][0], &acc[j][1]);
    do {
        int32x4_t isum[TOKENS][2];
#pragma GCC unroll 8
        for (int j = 0; j < TOKENS; j++)
            load_sums(start, &isum[j][0], &isum[j][1]);
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++) {
            int8x16_t v[2], x[2];
            load_pair(w->w + 64 * g + 32 * half, &v[0], &v[1]);
            load_pair(p->x + 32 * g, &x[0], &x[1]);
#pragma GCC unroll 8
            for (int j = 0; j < TOKENS; j++)
#pragma GCC unroll 2
                for (int r = 0; r < 2; r++)
                    isum[j][r] = dot(isum[j][r], v[r], x[j / 4], j % 4);
        }
        float32x4_t d[2], dx[2];
        load_floats(w->d + 8 * half, &d[0], &d[1]);
        load_floats(p->d, &dx[0], &dx[1]);
        at = out + HELD * stride;
#pragma GCC unroll 8
        for (int j = HELD; j < TOKENS; j++, at += stride) {
            load_floats(at, &acc[j][0], &acc[j][1]);
            add_products(step, acc[j], isum[j], w, half, d, dx, p, j);
            vst1q_f32(at, acc[j][0]);
            vst1q_f32(at + 4, acc[j][1]);
        }
#pragma GCC unroll 8
        for (int j = 0; j < HELD; j++)
            add_products(step, acc[j], isum[j], w, half, d, dx, p, j);
        w++;
        p++;
    } while (--count);
#pragma GCC unroll 8
    for (int j = 0; j < HELD; j++, out += stride) {
        vst1q_f32(out, acc[j][0]);
        vst1q_f32(out + 4, acc[j][1]);
    }
}

/* Eight rows by tokens 4 * part .. of eight, halves of blocks apart. */
INLINE void parts_tile(int step, const panel *w, int half, uint32_t count, const batch *p,
                       int part, float *out, size_t stride)
{
    const int32_t *start = start_of(step);
    float32x4_t acc[4][2];
    float *at = out;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++, at += stride)
        load_floats(at, &acc[j][0], &acc[j][1]);
    for (uint32_t b = 0; b < count; b++, w++, p++) {
        int32x4_t isum[2][4][2];
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                load_sums(start, &isum[h][j][0], &isum[h][j][1]);
#pragma GCC unroll 4
            for (int g = 4 * h; g < 4 * h + 4; g++) {
                int8x16_t v[2];
                const int8x16_t x = vld1q_s8(p->x + 32 * g + 16 * part);
                load_pair(w->w + 64 * g + 32 * half, &v[0], &v[1]);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++)
#pragma GCC unroll 2
                    for (int r = 0; r < 2; r++)
                        isum[h][j][r] = dot(isum[h][j][r], v[r], x, j);
            }
        }
        const float32x4_t dx = vld1q_f32(p->d + 4 * part);
        const int32x4_t sum[2] = {vld1q_s32(p->sum[0] + 4 * part),
                                  vld1q_s32(p->sum[1] + 4 * part)};
#pragma GCC unroll 2
        for (int r = 0; r < 2; r++) {
            const size_t rows = 8 * (size_t)half + 4 * (size_t)r;
            const int32x4_t s[2] = {vld1q_s32(w->s[0] + rows), vld1q_s32(w->s[1] + rows)};
            const float32x4_t d = vld1q_f32(w->d + rows);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const int32x4_t both =
                    vmlaq_s32(vmulq_s32(isum[0][j][r], s[0]), isum[1][j][r], s[1]);
                float32x4_t term = vmulq_f32(by_token(d, dx, j), vcvtq_f32_s32(both));
                if (step == QE_STEP_HALVES_MIN) {
                    const float32x4_t m = vld1q_f32(w->m + rows);
                    const int32x4_t n =
                        plus_times_sum(times_sum(vld1q_s32(w->n[0] + rows), sum[0], j),
                                       vld1q_s32(w->n[1] + rows), sum[1], j);
                    term = vsubq_f32(term, vmulq_f32(by_token(m, dx, j), vcvtq_f32_s32(n)));
                }
                add_to(&acc[j][r], term);
            }
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++, out += stride) {
        vst1q_f32(out, acc[j][0]);
        vst1q_f32(out + 4, acc[j][1]);
    }
}

INLINE void tile(int step, const panel *w, int half, uint32_t count, const batch *p, float *out,
                 size_t stride)
{
    if (in_halves(step))
        for (int part = 0; part < 2; part++)
            parts_tile(step, w, half, count, p, part, out + 4 * (size_t)part * stride, stride);
    else
        whole_tile(step, w, half, count, p, out, stride);
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
