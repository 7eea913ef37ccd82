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

#define QE_LANES 16
#define QE_OWN_LEVELS 1

enum {
    TOKENS = 8, /* of a tile */
    SPAN = 8,   /* blocks of columns at a time: the longest period */
    GROUPS = 4  /* of rows that lie in panels at a time: 28 KiB */
};

#include "neon_levels.h"
#include "neon_panel.h"

/* A block of columns of eight tokens: q of the first, the next ones `stride` bytes on; scales,
 * scales times sums, sums of both halves and of all. */
typedef struct {
    const int8_t *q;
    size_t stride;
    float d[TOKENS], least[TOKENS];
    int32_t sum[3][TOKENS];
} batch;

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

/* Eight groups of four columns. GCC 12 would move the sums about in between. */
INLINE pairs eight_groups(const int8x16_t w[8], const spread x[2])
{
    pairs p;
#if defined(__GNUC__) && !defined(__clang__)
#define ADD(w, x) "smlal %0.8h, " w ".8b, " x ".8b\n\tsmlal2 %1.8h, " w ".16b, " x ".16b\n\t"
    __asm__("smull %0.8h, %2.8b, %10.8b\n\tsmull2 %1.8h, %2.16b, %10.16b\n\t" ADD("%3", "%11")
                ADD("%4", "%12") ADD("%5", "%13") ADD("%6", "%14") ADD("%7", "%15")
                    ADD("%8", "%16") ADD("%9", "%17")
            : "=&w"(p.low), "=&w"(p.high)
            : "w"(w[0]), "w"(w[1]), "w"(w[2]), "w"(w[3]), "w"(w[4]), "w"(w[5]), "w"(w[6]),
              "w"(w[7]), "w"(x[0].four[0]), "w"(x[0].four[1]), "w"(x[0].four[2]),
              "w"(x[0].four[3]), "w"(x[1].four[0]), "w"(x[1].four[1]), "w"(x[1].four[2]),
              "w"(x[1].four[3]));
#undef ADD
#else
    p = multiply(w[0], x[0].four[0]);
    for (int g = 1; g < 8; g++)
        p = multiply_add(p, w[g], x[g / 4].four[g % 4]);
#endif
    return p;
}

INLINE int32x4_t sums_of(pairs p)
{
    return vpaddlq_s16(vpaddq_s16(p.low, p.high));
}

INLINE int32x4_t joined(int32x4_t a, int32x4_t b)
{
    return vpaddq_s32(a, b);
}

#include "neon_pairs.h"
#include "neon_rows.h"

/* Keys: a tile row of q8_0; q4 is 0. */
INLINE void rows_by_tokens(const uint8_t *w, int q4, uint32_t blocks, const qe_act *act,
                           size_t token, int tokens, float *out, size_t stride)
{
    static const qe_format keys = {QE_Q8_0, 8, 1, 2, 1, 0, QE_STEP_SCALED};
    (void)q4;
    for (int j = 0; j < tokens; j++)
        row_of_kind((kind){QE_Q8_0, 8, QE_STEP_SCALED, 0}, &keys, w, blocks, act,
                    token + (size_t)j, out + (size_t)j * stride);
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
            const spread x[2] = {spread_of(u), spread_of(u + 16)};
            const float d = du[h * (stride / 32) + n];
            for (int r = 0; r < 4; r++) {
                int8x16_t v[8];
                for (int g = 0; g < 8; g++)
                    v[g] = quants(values + (size_t)g * step + 16 * r);
                const int32x4_t isum = dot(128, v, x, 8);
                acc[h][r] = vaddq_f32(acc[h][r], vmulq_n_f32(vcvtq_f32_s32(isum), d));
            }
        }
    for (int h = 0; h < heads; h++)
        for (int r = 0; r < 4; r++)
            vst1q_f32(out + h * out_stride + 4 * r, acc[h][r]);
}

static void arrange(batch *p, const qe_act *act, size_t token, uint32_t first, uint32_t count,
                    int step)
{
    const size_t row = act->stride / 32;
    for (uint32_t t = 0; t < TOKENS; t++) {
        const float *d = act->d + (token + t) * row + first;
        const int16_t *s = act->s + 2 * ((token + t) * row + first);
        for (uint32_t b = 0; b < count; b++, s += 2) {
            p[b].q = act->q + token * act->stride + (size_t)(first + b) * 32;
            p[b].stride = act->stride;
            p[b].d[t] = d[b];
            if (step == QE_STEP_SCALED)
                continue;
            p[b].least[t] = d[b] * (float)qe_block_sum(s);
            p[b].sum[0][t] = s[0];
            p[b].sum[1][t] = s[1];
            p[b].sum[2][t] = qe_block_sum(s);
        }
    }
}

/* Four rows after the other, all columns of each. */
INLINE void keep_weights(int8_t *w, int half, int8x16_t v[2][8])
{
    for (int i = 0; i < 2; i++)
        for (int g = 0; g < 8; g++)
            vst1q_s8(w + 256 * half + 128 * i + 16 * g, v[i][g]);
}

INLINE void keep_scales(void *to, int quarter, int32x4_t rows)
{
    vst1q_s32((int32_t *)to + 4 * quarter, rows);
}

/* s[0] by the sum of levels and s[1] by the activations' is s * isum. */
INLINE void keep_row_scales(panel *p, vb scale, vb zero, int bits)
{
    int32x4_t s[4], z[4];
    widen(scale, s);
    widen(zero, z);
    for (int r = 0; r < 4; r++) {
        keep_scales(p->s[0], r, vshlq_s32(s[r], vdupq_n_s32(7 - bits)));
        keep_scales(p->s[1], r, vmulq_s32(s[r], vsubq_s32(vdupq_n_s32(64), z[r])));
    }
}

/* Four rows by eight tokens over `count` blocks; the sums go on from out. */
INLINE void tile(int step, int most, const panel *w, size_t quarter, uint32_t count,
                 const batch *p, float *out, size_t stride)
{
    const size_t rows = 4 * quarter;
    float32x4_t acc[TOKENS];
#pragma GCC unroll 8
    for (int j = 0; j < TOKENS; j++)
        acc[j] = vld1q_f32(out + (size_t)j * stride);
    for (uint32_t b = 0; b < count; b++, w++, p++) {
        const int8_t *q = p->q;
        int8x16_t v[8];
#pragma GCC unroll 4
        for (int g = 0; g < 8; g += 2)
            load_pair(w->w + 128 * quarter + 16 * g, &v[g], &v[g + 1]);
        const float32x4_t d = vld1q_f32(w->d + rows);
        const int32x4_t s0 = vld1q_s32(w->s[0] + rows), s1 = vld1q_s32(w->s[1] + rows);
        const float32x4_t dx[2] = {vld1q_f32(p->d), vld1q_f32(p->d + 4)};
#pragma GCC unroll 8
        for (int j = 0; j < TOKENS; j++, q += p->stride) {
            const spread x[2] = {spread_of(q), spread_of(q + 16)};
            const int32x4_t first = dot(most, v, x, in_halves(step) ? 4 : 8);
            float32x4_t term;
            if (step == QE_STEP_ROW) {
                const int32x4_t sum = plus_times_sum(vmulq_s32(first, s0), s1,
                                                     vld1q_s32(p->sum[2] + j / 4 * 4), j % 4);
                add_to(&acc[j], by_token(vcvtq_f32_s32(sum), dx[j / 4], j % 4));
                continue;
            }
            const int32x4_t sum = in_halves(step) ? vmlaq_s32(vmulq_s32(first, s0),
                                                              dot(most, v + 4, x + 1, 4), s1)
                                                  : first;
            term = vmulq_f32(by_token(d, dx[j / 4], j % 4), vcvtq_f32_s32(sum));
            if (step == QE_STEP_AFFINE)
                term = vaddq_f32(term, by_token(vld1q_f32(w->m + rows),
                                                vld1q_f32(p->least + j / 4 * 4), j % 4));
            if (step == QE_STEP_HALVES_MIN) {
                const int32x4_t n =
                    vmlaq_n_s32(vmulq_n_s32(vld1q_s32(w->n[0] + rows), p->sum[0][j]),
                                vld1q_s32(w->n[1] + rows), p->sum[1][j]);
                term = vsubq_f32(term,
                                 vmulq_f32(by_token(vld1q_f32(w->m + rows), dx[j / 4], j % 4),
                                           vcvtq_f32_s32(n)));
            }
            add_to(&acc[j], term);
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < TOKENS; j++)
        vst1q_f32(out + (size_t)j * stride, acc[j]);
}

/* A function a step and size of levels: all tiles of a few groups. */
typedef void tiles_function(const panel (*w)[SPAN], uint32_t groups, uint32_t count,
                            const batch *p, float *out, size_t stride);
#define TILES(name, step, most)                                                                \
    static __attribute__((noinline)) void name(const panel(*w)[SPAN], uint32_t groups,         \
                                               uint32_t count, const batch *p, float *out,     \
                                               size_t stride)                                  \
    {                                                                                          \
        for (uint32_t i = 0; i < 4 * groups; i++, out += 4)                                    \
            tile(step, most, w[i / 4], i % 4, count, p, out, stride);                          \
    }
TILES(scaled_tiles, QE_STEP_SCALED, 16)
TILES(scaled_byte_tiles, QE_STEP_SCALED, 128)
TILES(affine_tiles, QE_STEP_AFFINE, 15)
TILES(affine_5_tiles, QE_STEP_AFFINE, 31)
TILES(halves_tiles, QE_STEP_HALVES, 32)
TILES(halves_min_tiles, QE_STEP_HALVES_MIN, 3)
TILES(row_tiles, QE_STEP_ROW, 16)
TILES(row_6_tiles, QE_STEP_ROW, 32)
#undef TILES

static tiles_function *tiles_of(const qe_format *f)
{
    const int bytes = f->bits == 8 || f->type == QE_IQ4_NL || f->type == QE_IQ4_XS;
    switch (f->step) {
    case QE_STEP_AFFINE: return f->bits == 5 ? affine_5_tiles : affine_tiles;
    case QE_STEP_HALVES: return halves_tiles;
    case QE_STEP_HALVES_MIN: return halves_min_tiles;
    case QE_STEP_ROW: return f->bits == 6 ? row_6_tiles : row_tiles;
    default: return bytes ? scaled_byte_tiles : scaled_tiles;
    }
}

#include "neon_products.h"

#define QE_SET qe_neon
#define QE_SET_NAME "neon"
#include "neon_set.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
#else
typedef int qe_no_neon;
#endif
