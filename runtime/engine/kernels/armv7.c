/* armv7.c - the kernels of 32-bit Arm with NEON (Pi 2; Pi 3 and 4 under a 32-bit system). NEON
 * there flushes subnormals, so it has floats only where none can come up: in products of
 * weights and activations whose scales are large enough (see `large`). Other floats are
 * scalar.h's. Equal to portable.c. */
#if defined(__arm__) && defined(__linux__) && defined(__ARM_PCS_VFP) &&                        \
    (!defined(__clang__) || defined(QE_WITH_ARMV7)) && !defined(QE_PORTABLE_ONLY)
#include "kernels.h"
#include "scalar.h"

#if !defined(__clang__) /* which is told by the command line: -mcpu=cortex-a5 */
#pragma GCC push_options
#pragma GCC target("arch=armv7-a+neon-vfpv4")
#pragma GCC optimize("no-schedule-insns") /* it spills what 16 registers hold */
#endif
#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))

/* Products of rows 0, 1 and of rows 2, 3, in int16 pairs of columns. */
typedef struct {
    int16x8_t low, high;
} pairs;

INLINE int8x8_t four(const int8_t *x)
{
    return vreinterpret_s8_s32(vld1_dup_s32((const int32_t *)(const void *)x));
}

INLINE pairs multiply(int8x16_t w, int8x8_t x)
{
    return (pairs){vmull_s8(vget_low_s8(w), x), vmull_s8(vget_high_s8(w), x)};
}

INLINE pairs multiply_add(pairs p, int8x16_t w, int8x8_t x)
{
    return (pairs){vmlal_s8(p.low, vget_low_s8(w), x), vmlal_s8(p.high, vget_high_s8(w), x)};
}

INLINE int32x4_t joined(int32x4_t a, int32x4_t b) /* neighbours added */
{
    return vcombine_s32(vpadd_s32(vget_low_s32(a), vget_high_s32(a)),
                        vpadd_s32(vget_low_s32(b), vget_high_s32(b)));
}

INLINE int8x16_t quants(const uint8_t *p)
{
    return vreinterpretq_s8_u8(vld1q_u8(p));
}

/* Exact: halves become normal floats. The intrinsic would need -mfp16-format. */
INLINE float32x4_t half_load(const uint8_t *p)
{
    const uint8x8_t half = vld1_u8(p);
    float32x4_t x;
    __asm__("vcvt.f32.f16 %q0, %P1" : "=w"(x) : "w"(half));
    return x;
}

/* 32 bytes. */
INLINE void load_pair(const void *p, int8x16_t *a, int8x16_t *b)
{
    *a = quants(p);
    *b = quants((const uint8_t *)p + 16);
}

INLINE void scales_of(const uint8_t *w, float32x4_t d[4])
{
    for (int r = 0; r < 4; r++)
        d[r] = half_load(w + 8 * r);
}

INLINE int8x16_t lookup(uint8x16_t table, uint8x16_t index)
{
    const uint8x8x2_t t = {{vget_low_u8(table), vget_high_u8(table)}};
    return vreinterpretq_s8_u8(
        vcombine_u8(vtbl2_u8(t, vget_low_u8(index)), vtbl2_u8(t, vget_high_u8(index))));
}

INLINE void add_to(float32x4_t *acc, float32x4_t term)
{
    *acc = vaddq_f32(*acc, term);
}

INLINE uint16x8_t wide_high(uint8x16_t a, uint8x16_t b)
{
    return vmull_u8(vget_high_u8(a), vget_high_u8(b));
}

/* The end of QE_STEP_ROW: sums of `tokens` rows by the scales of 16 rows, in VFP. */
INLINE void scale_rows(const uint8_t *w, uint32_t tokens, float *out, size_t stride)
{
    for (uint32_t t = 0; t < tokens; t++, out += stride)
        for (uint32_t r = 0; r < 16; r++)
            out[r] = out[r] * qe_float(qe_load32(w + 4 * r));
}

/* Four columns of x in every lane, for four such groups. */
typedef struct {
    int8x8_t four[4];
} spread;

INLINE spread spread_of(const int8_t *q)
{
    spread s;
    for (int i = 0; i < 4; i++)
        s.four[i] = four(q + 4 * i);
    return s;
}

INLINE pairs eight_groups(const int8x16_t w[8], const spread x[2])
{
    pairs p = multiply(w[0], x[0].four[0]);
#pragma GCC unroll 8
    for (int g = 1; g < 8; g++)
        p = multiply_add(p, w[g], x[g / 4].four[g % 4]);
    return p;
}

INLINE int32x4_t sums_of(pairs p)
{
    return vpaddlq_s16(vcombine_s16(vpadd_s16(vget_low_s16(p.low), vget_high_s16(p.low)),
                                    vpadd_s16(vget_low_s16(p.high), vget_high_s16(p.high))));
}

#include "neon_levels.h"
#include "neon_pairs.h"
#include "neon_rows.h"

/* isum of 16 rows; w: eight groups of four columns, `step` bytes apart. Two products of bytes
 * fit int16, |x| <= 127. */
INLINE void sums_q8(const uint8_t *w, size_t step, const int8_t *x, int32_t isum[16])
{
    int32x4_t a[4], b[4];
    for (int r = 0; r < 4; r++)
        a[r] = b[r] = vdupq_n_s32(0);
    for (int g = 0; g < 8; g += 2, w += 2 * step) {
        const int8x8_t x0 = four(x + 4 * g), x1 = four(x + 4 * g + 4);
        for (int r = 0; r < 4; r++) {
            const pairs p =
                multiply_add(multiply(quants(w + 16 * r), x0), quants(w + step + 16 * r), x1);
            a[r] = vpadalq_s16(a[r], p.low);
            b[r] = vpadalq_s16(b[r], p.high);
        }
    }
    for (int r = 0; r < 4; r++)
        vst1q_s32(isum + 4 * r, joined(a[r], b[r]));
}

/* A block of 16 keys: acc[r] + (dw[r] * dx) * isum[r], in VFP. */
INLINE void add_keys(float acc[16], const uint8_t *scales, float dx, const int32_t isum[16])
{
    for (int r = 0; r < 16; r += 4) {
        float dw[4];
        vst1q_f32(dw, half_load(scales + 2 * r));
        for (int i = 0; i < 4; i++)
            acc[r + i] = acc[r + i] + (dw[i] * dx) * (float)isum[r + i];
    }
}

/* Whether a row of activations has no scale but 0 below 2^-60. Scales of weights are 0 or at
 * least 2^-40 (f16: 2^-24), so products are 0 or at least 2^-100, and sums of them multiples of
 * 2^-123: NEON rounds as IEEE does. */
static int large(const float *d, uint32_t blocks)
{
    for (uint32_t b = 0; b < blocks; b++)
        if (qe_bits(d[b]) - 1 < 0x21800000u - 1)
            return 0;
    return 1;
}

/* MXFP4's scales can be smaller: 2^(e - 128). */
static int large_mxfp4(const uint8_t *w, uint32_t blocks)
{
    uint8x16_t least = vdupq_n_u8(255);
    for (uint32_t b = 0; b < blocks; b++, w += 16 + 256)
        least = vminq_u8(least, vld1q_u8(w));
    const uint8x8_t half = vmin_u8(vget_low_u8(least), vget_high_u8(least));
    const uint64_t all = vget_lane_u64(vreinterpret_u64_u8(half), 0);
    for (int i = 0; i < 64; i += 8)
        if ((all >> i & 255) < 88)
            return 0;
    return 1;
}

static void products(const qe_matmul *m, const qe_format *f, uint32_t first, uint32_t count)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const size_t row_blocks = m->act.stride / 32, bytes = qe_group_bytes(f, 16, m->columns);
    for (uint32_t t = 0; t < m->tokens; t++) {
        qe_matmul alone = *m;
        alone.act.q += t * m->act.stride;
        alone.act.d += t * row_blocks;
        alone.act.s += 2 * t * row_blocks;
        alone.out += t * m->out_stride;
        alone.tokens = 1;
        const int fast = large(alone.act.d, blocks);
        for (uint32_t group = first; group < first + count; group++) {
            const uint8_t *w = m->w + group * bytes;
            if (fast && (m->type != QE_MXFP4 || large_mxfp4(w, blocks)))
                row(f, w, blocks, &alone.act, 0, alone.out + group * 16);
            else
                qe_portable_matmul(&alone, group, 1);
        }
    }
}

static void matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    const qe_format *f = qe_format_of(m->type);
    if (f && m->layout == 16)
        products(m, f, first, count);
    else
        qe_portable_matmul(m, first, count);
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
        for (uint32_t h = 0; h < heads; h++) {
            float acc[16] = {0};
            for (uint32_t b = 0; b < head_size / 32; b++) {
                int32_t isum[16];
                sums_q8(k + b * 544 + 32, 64, q->q + h * q->stride + 32 * b, isum);
                add_keys(acc, k + b * 544, q->d[h * (q->stride / 32) + b], isum);
            }
            memcpy(scores + h * stride + tile * 16, acc, sizeof acc);
        }
}

static void mix_q8(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                   uint32_t width, uint32_t heads, const int8_t *uq, const float *du,
                   size_t stride, float *out, size_t out_stride)
{
    if (head_size % 32) {
        qe_portable_mix_q8(v, tiles, head_size, c, width, heads, uq, du, stride, out,
                           out_stride);
        return;
    }
    v += head_size / 32 * 64 + c * 128;
    for (uint32_t tile = 0; tile < tiles; tile++, v += qe_value_tile_bytes(head_size))
        for (uint32_t h = 0; h < heads; h++) {
            const float d = du[h * (stride / 32) + tile];
            for (uint32_t i = 0; i < 32; i += 16) {
                int32_t isum[16];
                float *to = out + h * out_stride + i;
                sums_q8(v + 4 * i, (size_t)head_size * 4, uq + h * stride + tile * 32, isum);
                for (int r = 0; r < 16; r++)
                    to[r] = to[r] + d * (float)isum[r];
            }
        }
}

const qe_kernels qe_armv7 = {
    .name = "armv7",
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
    .order = order,
    .survey = survey,
    .pick = pick,
    .first_largest = first_largest,
};

#if !defined(__clang__)
#pragma GCC pop_options
#endif
#else
typedef int qe_no_armv7;
#endif
