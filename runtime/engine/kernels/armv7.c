/* armv7.c - the kernels of 32-bit Arm with NEON (Pi 2; Pi 3 and 4 under a 32-bit system). NEON
 * there flushes subnormals, so only integers go through it: sums of products as in neon.c.
 * Floats are scalar.h's. Equal to portable.c. */
#if defined(__arm__) && defined(__linux__) && defined(__ARM_PCS_VFP) &&                        \
    (!defined(__clang__) || defined(QE_WITH_ARMV7)) && !defined(QE_PORTABLE_ONLY)
#include "kernels.h"
#include "scalar.h"

#if !defined(__clang__) /* which is told by the command line: -mcpu=cortex-a5 */
#pragma GCC push_options
#pragma GCC target("arch=armv7-a+neon-vfpv4")
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

/* The same of q4_0: eight products of a nibble and a byte fit int16. */
INLINE void sums_q4(const uint8_t *w, const int8_t *x, int32_t sum, int32_t isum[16])
{
    const int8x16_t low = vdupq_n_s8(15);
    pairs p[4];
    for (int r = 0; r < 4; r++)
        p[r] = (pairs){vdupq_n_s16(0), vdupq_n_s16(0)};
    for (int g = 0; g < 4; g++, w += 64) {
        const int8x8_t x0 = four(x + 4 * g), x1 = four(x + 4 * g + 16);
        for (int r = 0; r < 4; r++) {
            const int8x16_t v = quants(w + 16 * r);
            p[r] = multiply_add(p[r], vandq_s8(v, low), x0);
            p[r] = multiply_add(p[r],
                                vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(v), 4)), x1);
        }
    }
    for (int r = 0; r < 4; r++)
        vst1q_s32(isum + 4 * r, vaddq_s32(joined(vpaddlq_s16(p[r].low), vpaddlq_s16(p[r].high)),
                                          vdupq_n_s32(-8 * sum)));
}

/* A block of 16 rows: acc[r] + (dw[r] * dx) * isum[r], in VFP. */
INLINE void add_block(float acc[16], const uint8_t *scales, float dx, const int32_t isum[16])
{
    for (int r = 0; r < 16; r += 4) {
        float dw[4];
        vst1q_f32(dw, half_load(scales + 2 * r));
        for (int i = 0; i < 4; i++)
            acc[r + i] = acc[r + i] + (dw[i] * dx) * (float)isum[r + i];
    }
}

INLINE void products(const qe_matmul *m, int q4, uint32_t group)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const size_t bytes = q4 ? 288 : 544, row = m->act.stride / 32;
    for (uint32_t t = 0; t < m->tokens; t++) {
        const uint8_t *w = m->w + (size_t)group * blocks * bytes;
        const int8_t *x = m->act.q + t * m->act.stride;
        float acc[16] = {0};
        for (uint32_t b = 0; b < blocks; b++, w += bytes, x += 32) {
            int32_t isum[16];
            if (q4)
                sums_q4(w + 32, x, qe_block_sum(m->act.s + 2 * (t * row + b)), isum);
            else
                sums_q8(w + 32, 64, x, isum);
            add_block(acc, w, m->act.d[t * row + b], isum);
        }
        memcpy(m->out + t * m->out_stride + group * 16, acc, sizeof acc);
    }
}

static void matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    if ((m->type != QE_Q4_0 && m->type != QE_Q8_0) || m->layout != 16) {
        qe_portable_matmul(m, first, count);
        return;
    }
    for (uint32_t group = first; group < first + count; group++)
        if (m->type == QE_Q4_0)
            products(m, 1, group);
        else
            products(m, 0, group);
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
                add_block(acc, k + b * 544, q->d[h * (q->stride / 32) + b], isum);
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
