/* neon_set.h - the AArch64 kernels; neon.c and dotprod.c include it and differ in one function:
 *   int32x4_t dot16(int32x4_t acc, int8x16_t w, int8x16_t x)
 * which adds, for each of four rows, four products to the row's lane. Equal to portable.c. */
#include "kernels.h"
#include <arm_neon.h>

#define W 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));

static inline vf half_load(const uint8_t *p)
{
    return (vf)vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

static inline void narrow(vi v, int8_t *q)
{
    const int16x4_t words = vmovn_s32((int32x4_t)v);
    const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
    vst1_lane_s32((int32_t *)(void *)q, vreinterpret_s32_s8(bytes), 0);
}

#include "lanes.h"

#define NT 4 /* tokens that share a load of the weights */

static inline int8x16_t quants(const uint8_t *p)
{
    return vreinterpretq_s8_u8(vld1q_u8(p));
}

static inline int8x16_t four(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(v));
}

/* Four rows (quarter 0..3 of a group of 16) against `tokens` activation rows. */
static inline __attribute__((always_inline)) void
quarter_row(const uint8_t *w, int q4, uint32_t blocks, const qe_act *act, size_t token,
            int tokens, float *out, size_t stride, int quarter)
{
    const size_t tile = q4 ? 288 : 544, row = act->stride / 32;
    const int8_t *q = act->q + token * act->stride;
    const float *d = act->d + token * row;
    const int8x16_t eight = vdupq_n_s8(8);
    const int steps = q4 ? 4 : 8;
    float32x4_t acc[NT];
    for (int j = 0; j < tokens; j++)
        acc[j] = vdupq_n_f32(0.0f);
    for (uint32_t b = 0; b < blocks; b++, w += tile) {
        const float32x4_t dw = (float32x4_t)half_load(w + 8 * quarter);
        const uint8_t *p = w + 32 + 16 * quarter;
        int32x4_t isum[NT];
        for (int j = 0; j < tokens; j++)
            isum[j] = vdupq_n_s32(0);
#pragma GCC unroll 8
        for (int g = 0; g < steps; g++) {
            const int8x16_t v = quants(p + 64 * g);
            const int8x16_t a = q4 ? vsubq_s8(vandq_s8(v, vdupq_n_s8(15)), eight) : v;
            const int8x16_t c =
                vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(v), 4)), eight);
#pragma GCC unroll 4
            for (int j = 0; j < tokens; j++) {
                const int8_t *x = q + (size_t)j * act->stride + b * 32 + 4 * g;
                isum[j] = dot16(isum[j], a, four(x));
                if (q4)
                    isum[j] = dot16(isum[j], c, four(x + 16));
            }
        }
        for (int j = 0; j < tokens; j++) {
            const float32x4_t scale = vmulq_n_f32(dw, d[(size_t)j * row + b]);
            acc[j] = vaddq_f32(acc[j], vmulq_f32(scale, vcvtq_f32_s32(isum[j])));
        }
    }
    for (int j = 0; j < tokens; j++)
        vst1q_f32(out + (size_t)j * stride + 4 * quarter, acc[j]);
}

static inline __attribute__((always_inline)) void group_rows(const qe_matmul *m, int q4,
                                                             uint32_t group)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const uint8_t *w = m->w + (size_t)group * blocks * (q4 ? 288 : 544);
    float *out = m->out + group * 16;
    uint32_t t = 0;
    for (; t + NT <= m->tokens; t += NT)
        for (int k = 0; k < 4; k++)
            quarter_row(w, q4, blocks, &m->act, t, NT, out + t * m->out_stride, m->out_stride,
                        k);
    for (; t < m->tokens; t++)
        for (int k = 0; k < 4; k++)
            quarter_row(w, q4, blocks, &m->act, t, 1, out + t * m->out_stride, m->out_stride,
                        k);
}

static void matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    if (common_matmul(m, first, count))
        return;
    for (uint32_t group = first; group < first + count; group++) {
        if (m->type == QE_Q4_0)
            group_rows(m, 1, group);
        else
            group_rows(m, 0, group);
    }
}

/* A key tile of whole blocks has the bytes of a q8_0 weight tile. */
static void score_q8(const uint8_t *k, uint32_t tiles, uint32_t head_size, const qe_act *q,
                     uint32_t heads, float *scores, size_t stride)
{
    if (head_size % 32) {
        qe_portable_score_q8(k, tiles, head_size, q, heads, scores, stride);
        return;
    }
    for (uint32_t tile = 0; tile < tiles; tile++, k += qe_key_tile_bytes(head_size))
        for (int quarter = 0; quarter < 4; quarter++) {
            uint32_t h = 0;
            float *out = scores + tile * 16;
            for (; h + 3 <= heads; h += 3)
                quarter_row(k, 0, head_size / 32, q, h, 3, out + h * stride, stride, quarter);
            for (; h < heads; h++)
                quarter_row(k, 0, head_size / 32, q, h, 1, out + h * stride, stride, quarter);
        }
}

static void mix_q8(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                   uint32_t width, const int8_t *uq, const float *du, float *out)
{
    if (head_size % 32) {
        qe_portable_mix_q8(v, tiles, head_size, c, width, uq, du, out);
        return;
    }
    const uint8_t *values = v + head_size / 32 * 64 + c * 128;
    const size_t tile_bytes = qe_value_tile_bytes(head_size), step = (size_t)head_size * 4;
    float32x4_t acc[8];
    for (int k = 0; k < 8; k++)
        acc[k] = vdupq_n_f32(0.0f);
    for (uint32_t tile = 0; tile < tiles; tile++, values += tile_bytes) {
        int32x4_t isum[8];
        for (int k = 0; k < 8; k++)
            isum[k] = vdupq_n_s32(0);
        for (int g = 0; g < 8; g++) {
            const int8x16_t u = four(uq + tile * 32 + 4 * g);
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++)
                isum[k] = dot16(isum[k], quants(values + (size_t)g * step + 16 * k), u);
        }
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++)
            acc[k] = vaddq_f32(acc[k], vmulq_n_f32(vcvtq_f32_s32(isum[k]), du[tile]));
    }
    for (int k = 0; k < 8; k++)
        vst1q_f32(out + 4 * k, acc[k]);
}

const qe_kernels QE_SET = {
    .name = QE_SET_NAME,
    .quantize = quantize,
    .matmul = matmul,
    .rmsnorm = rmsnorm,
    .silu_mul = silu_mul,
    .score_q8 = score_q8,
    .softmax = softmax,
    .weigh_q8 = weigh_q8,
    .mix_q8 = mix_q8,
    .score_f16 = score_f16,
    .mix_f16 = mix_f16,
    .score_f32 = score_f32,
    .mix_f32 = mix_f32,
    .weights = weights,
    .survey = survey,
};
