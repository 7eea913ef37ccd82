/* neon.c - the AArch64 kernels for every core (A53, A72): products of bytes are summed in int16
 * as long as they cannot overflow, |x| <= 127 (SPEC 2.3). Of q4_0 that is a whole block: 8 *
 * 127
 * * 8, or 15 * 127 * 8 with the offset; of q8_0 two products: 2 * 128 * 127 = 32512. */
#if defined(__aarch64__) && !defined(QE_PORTABLE_ONLY)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("no-schedule-insns") /* it spills what 32 registers hold */
#endif

#include "neon_base.h"

enum { TOKENS = 8, SPAN = 32 }; /* of a tile; blocks of columns at a time */

/* Four columns of x in every lane, for four such groups. */
typedef struct {
    int8x16_t four[4];
} spread;

INLINE spread spread_of(const int8_t *q)
{
    const int32x4x4_t v = vld4q_dup_s32((const int32_t *)(const void *)q);
    spread s;
    for (int i = 0; i < 4; i++)
        s.four[i] = vreinterpretq_s8_s32(v.val[i]);
    return s;
}

/* Products of rows 0, 1 and of rows 2, 3, in int16 pairs of columns. */
typedef struct {
    int16x8_t low, high;
} pairs;

INLINE pairs multiply(int8x16_t w, int8x16_t x)
{
    return (pairs){vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x)};
}

INLINE pairs multiply_add(pairs p, int8x16_t w, int8x16_t x)
{
    return (pairs){vmlal_s8(p.low, vget_low_s8(w), vget_low_s8(x)),
                   vmlal_high_s8(p.high, w, x)};
}

/* isum of four rows against 16 columns twice: w holds eight groups of four columns. */
INLINE int32x4_t dot_q8(const int8x16_t w[8], const spread *low, const spread *high)
{
    const pairs p = multiply_add(multiply(w[0], low->four[0]), w[1], low->four[1]);
    const pairs q = multiply_add(multiply(w[2], low->four[2]), w[3], low->four[3]);
    const pairs r = multiply_add(multiply(w[4], high->four[0]), w[5], high->four[1]);
    const pairs s = multiply_add(multiply(w[6], high->four[2]), w[7], high->four[3]);
    int32x4_t a = vpaddlq_s16(p.low), b = vpaddlq_s16(p.high);
    a = vpadalq_s16(a, q.low);
    b = vpadalq_s16(b, q.high);
    a = vpadalq_s16(a, r.low);
    b = vpadalq_s16(b, r.high);
    a = vpadalq_s16(a, s.low);
    b = vpadalq_s16(b, s.high);
    return vpaddq_s32(a, b);
}

/* The same for nibbles already apart: four groups of low columns, four of high ones. */
INLINE int32x4_t dot_q4(const int8x16_t w[8], const spread *low, const spread *high)
{
    pairs p = multiply(w[0], low->four[0]);
    p = multiply_add(p, w[1], low->four[1]);
    p = multiply_add(p, w[2], low->four[2]);
    p = multiply_add(p, w[3], low->four[3]);
    p = multiply_add(p, w[4], high->four[0]);
    p = multiply_add(p, w[5], high->four[1]);
    p = multiply_add(p, w[6], high->four[2]);
    p = multiply_add(p, w[7], high->four[3]);
    return vpaddlq_s16(vpaddq_s16(p.low, p.high));
}

/* Rows 4 * quarter .. of one block: eight groups of four columns; nibbles less `offset`. */
INLINE void load_quarter(const uint8_t *w, int quarter, int q4, int8_t offset, int8x16_t v[8])
{
    const uint8_t *p = w + 32 + 16 * quarter;
    for (int g = 0; g < (q4 ? 4 : 8); g++) {
        const int8x16_t bytes = quants(p + 64 * g);
        v[g] = q4 ? low_nibbles(bytes) : bytes;
        if (q4)
            v[g + 4] = high_nibbles(bytes);
    }
    for (int g = 0; q4 && offset && g < 8; g++)
        v[g] = vsubq_s8(v[g], vdupq_n_s8(offset));
}

INLINE void rows_by_tokens(const uint8_t *w, int q4, uint32_t blocks, const qe_act *act,
                           size_t token, int tokens, float *out, size_t stride)
{
    const size_t row = act->stride / 32;
    const int8_t *q = act->q + token * act->stride;
    const float *d = act->d + token * row;
    const int16_t *s = act->s + 2 * token * row;
    float32x4_t acc[3][4];
    for (int j = 0; j < tokens; j++)
        for (int r = 0; r < 4; r++)
            acc[j][r] = vdupq_n_f32(0.0f);
    for (uint32_t b = 0; b < blocks; b++, w += block_bytes(q4), q += 32)
        for (int j = 0; j < tokens; j++) {
            const int8_t *x = q + (size_t)j * act->stride;
            const spread low = spread_of(x), high = spread_of(x + 16);
            const int32x4_t offset =
                vdupq_n_s32(q4 ? -8 * qe_block_sum(s + 2 * (j * row + b)) : 0);
            for (int r = 0; r < 4; r++) {
                int8x16_t v[8];
                load_quarter(w, r, q4, 0, v);
                const int32x4_t isum =
                    q4 ? vaddq_s32(dot_q4(v, &low, &high), offset) : dot_q8(v, &low, &high);
                acc[j][r] = scaled(acc[j][r], (float32x4_t)half_load(w + 8 * r),
                                   d[(size_t)j * row + b], isum);
            }
        }
    for (int j = 0; j < tokens; j++)
        for (int r = 0; r < 4; r++)
            vst1q_f32(out + (size_t)j * stride + 4 * r, acc[j][r]);
}

INLINE void values_by_heads(const uint8_t *values, uint32_t tiles, uint32_t head_size,
                            int heads, const int8_t *uq, const float *du, size_t stride,
                            float *out, size_t out_stride)
{
    const size_t tile_bytes = qe_value_tile_bytes(head_size), step = (size_t)head_size * 4;
    float32x4_t acc[3][4];
    for (int h = 0; h < heads; h++)
        for (int r = 0; r < 4; r++)
            acc[h][r] = vld1q_f32(out + h * out_stride + 4 * r);
    for (uint32_t n = 0; n < tiles; n++, values += tile_bytes, uq += 32)
        for (int h = 0; h < heads; h++) {
            const int8_t *u = uq + h * stride;
            const spread low = spread_of(u), high = spread_of(u + 16);
            const float d = du[h * (stride / 32) + n];
            for (int r = 0; r < 4; r++) {
                int8x16_t v[8];
                for (int g = 0; g < 8; g++)
                    v[g] = quants(values + (size_t)g * step + 16 * r);
                const int32x4_t isum = dot_q8(v, &low, &high);
                acc[h][r] = vaddq_f32(acc[h][r], vmulq_n_f32(vcvtq_f32_s32(isum), d));
            }
        }
    for (int h = 0; h < heads; h++)
        for (int r = 0; r < 4; r++)
            vst1q_f32(out + h * out_stride + 4 * r, acc[h][r]);
}

/* Four rows by eight tokens over `count` blocks from block `first` on; the sums go on from out.
 */
INLINE void tile(const uint8_t *w, int quarter, int q4, uint32_t first, uint32_t count,
                 const qe_act *act, size_t token, float *out, size_t stride)
{
    const size_t row = act->stride / 32;
    const int8_t *q = act->q + token * act->stride + (size_t)first * 32;
    const float *d = act->d + token * row + first;
    float32x4_t acc[TOKENS];
    for (int j = 0; j < TOKENS; j++)
        acc[j] = first ? vld1q_f32(out + (size_t)j * stride) : vdupq_n_f32(0.0f);
    for (uint32_t b = 0; b < count; b++, w += block_bytes(q4), q += 32) {
        const float32x4_t dw = (float32x4_t)half_load(w + 8 * quarter);
        int8x16_t v[8];
        load_quarter(w, quarter, q4, 8, v);
#pragma GCC unroll 8
        for (int j = 0; j < TOKENS; j++) {
            const int8_t *x = q + (size_t)j * act->stride;
            const spread low = spread_of(x), high = spread_of(x + 16);
            const int32x4_t isum = q4 ? dot_q4(v, &low, &high) : dot_q8(v, &low, &high);
            acc[j] = scaled(acc[j], dw, d[(size_t)j * row + b], isum);
        }
    }
    for (int j = 0; j < TOKENS; j++)
        vst1q_f32(out + (size_t)j * stride, acc[j]);
}

/* A group of 16 rows stays in the first cache, a span of columns at a time, while the tokens go
 * by. */
INLINE void products(const qe_matmul *m, int q4, uint32_t first, uint32_t count)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const uint32_t tiled = m->tokens / TOKENS * TOKENS;
    const size_t bytes = block_bytes(q4), stride = m->out_stride;
    for (uint32_t group = first; group < first + count; group++) {
        const uint8_t *w = m->w + (size_t)group * blocks * bytes;
        float *out = m->out + group * 16;
        uint32_t t = tiled;
        for (uint32_t b = 0; tiled && b < blocks; b += SPAN) {
            const uint32_t now = blocks - b < SPAN ? blocks - b : SPAN;
            for (uint32_t k = 0; k < tiled; k += TOKENS)
                for (int quarter = 0; quarter < 4; quarter++)
                    tile(w + b * bytes, quarter, q4, b, now, &m->act, k,
                         out + k * stride + 4 * quarter, stride);
        }
        for (; t < m->tokens; t++)
            rows_by_tokens(w, q4, blocks, &m->act, t, 1, out + t * stride, stride);
    }
}

#define QE_SET qe_neon
#define QE_SET_NAME "neon"
#include "neon_set.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
#else
typedef int qe_no_neon;
#endif
