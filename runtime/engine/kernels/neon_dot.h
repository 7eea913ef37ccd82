/* neon_dot.h - products by SDOT, for the sets of cores that have it: dotprod.c and i8mm.c. They
 * bring, beside neon_panel.h's, for tiles of 8 rows by 8 tokens:
 *   arrange(batch, act, token, first, count, step): blocks of 8 activation rows, what the
 *     step needs of them
 *   tile(step, panels, half, count, batch, out, stride): rows 8 * half .. 8 * half + 7 of a
 *     group over count blocks of columns; the sums go on from out */
#include "neon_base.h"

#define QE_OWN_LEVELS 0

enum {
    TOKENS = 8, /* of a tile */
    SPAN = 8,   /* blocks of columns at a time: the longest period */
    GROUPS = 8  /* of rows that lie in panels at a time: 56 KiB */
};

/* A block of columns of eight tokens: x and the others in the order of the set's tile. */
typedef struct {
    int8_t x[TOKENS * 32];
    float d[TOKENS * 2];
    float least[TOKENS * 2];    /* of QE_STEP_AFFINE: d times the sum */
    int32_t sum[2][TOKENS * 2]; /* of QE_STEP_HALVES_MIN: of 16 columns each */
} batch;

#include "neon_levels.h"
#include "neon_panel.h"

/* (float)(s * isum) by a fused step, which rounds once, from isum above 1.5 * 2^23: 2^22 is
 * out of its reach. d: s; m: what that made too much. */
INLINE void keep_row_scales(panel *p, vb scale, vb zero, int bits)
{
    int32x4_t s[4];
    (void)zero;
    (void)bits;
    widen(scale, s);
    for (int r = 0; r < 4; r++) {
        const float32x4_t f = vcvtq_f32_s32(s[r]);
        keep_scales(p->d, r, (int32x4_t)f);
        keep_scales(p->m, r, (int32x4_t)vmulq_n_f32(f, -QE_MAGIC));
    }
}

/* Eight sums' beginning, as memory: a load of two registers is one instruction. */
INLINE const int32_t *start_of(int step)
{
    static const int32_t nothing[8],
        magic[8] = {QE_MAGIC_BITS, QE_MAGIC_BITS, QE_MAGIC_BITS, QE_MAGIC_BITS,
                    QE_MAGIC_BITS, QE_MAGIC_BITS, QE_MAGIC_BITS, QE_MAGIC_BITS};
    const int32_t *start = step == QE_STEP_ROW ? magic : nothing;
    __asm__("" : "+r"(start)); /* not a constant: GCC 12 would print no address for it */
    return start;
}

static void arrange(batch *p, const qe_act *act, size_t token, uint32_t first, uint32_t count,
                    int step);
INLINE void tile(int step, const panel *w, int half, uint32_t count, const batch *p, float *out,
                 size_t stride);

INLINE int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t x, int lane)
{
    switch (lane) {
    case 0: return vdotq_laneq_s32(sum, w, x, 0);
    case 1: return vdotq_laneq_s32(sum, w, x, 1);
    case 2: return vdotq_laneq_s32(sum, w, x, 2);
    default: return vdotq_laneq_s32(sum, w, x, 3);
    }
}

INLINE void block_sums(kind k, vb table, const uint8_t *w, const int8_t *q,
                       const int32_t start[2], int32x4_t isum[2][4])
{
    int8x16_t x[2];
    load_pair(q, &x[0], &x[1]);
    for (int r = 0; r < 4; r++) {
        isum[0][r] = vdupq_n_s32(start[0]);
        isum[1][r] = vdupq_n_s32(start[1]);
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        planes p[2];
        load_planes(w, k.bits, half, p);
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++)
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
                int32x4_t *sum = &isum[in_halves(k.step) ? g / 4 : 0][2 * half + i];
                *sum = dot(*sum, weights_at(k, table, &p[i], g), x[g / 4], g % 4);
            }
    }
}

#include "neon_rows.h"

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
    for (uint32_t b = 0; b < blocks; b++, w += block_bytes(q4), q += 32) {
        int32x4_t isum[3][4];
        int8x16_t x[3][2], v[4];
        float32x4_t dw[4];
        for (int j = 0; j < tokens; j++) {
            const int32_t offset = q4 ? -8 * qe_block_sum(s + 2 * (j * row + b)) : 0;
            for (int r = 0; r < 4; r++)
                isum[j][r] = vdupq_n_s32(offset);
            load_pair(q + (size_t)j * act->stride, &x[j][0], &x[j][1]);
        }
/* Four columns of 16 rows; of q4_0, four more in the high nibbles. */
#define STEP(g)                                                                                \
    load_pair(w + 32 + 64 * (g), &v[0], &v[1]);                                                \
    load_pair(w + 64 + 64 * (g), &v[2], &v[3]);                                                \
    for (int r = 0; r < 4; r++) {                                                              \
        const int8x16_t low = q4 ? low_nibbles(v[r]) : v[r], high = high_nibbles(v[r]);        \
        for (int j = 0; j < tokens; j++) {                                                     \
            isum[j][r] = vdotq_laneq_s32(isum[j][r], low, x[j][(g) / 4], (g) % 4);             \
            if (q4)                                                                            \
                isum[j][r] = vdotq_laneq_s32(isum[j][r], high, x[j][1], (g) % 4);              \
        }                                                                                      \
    }
        STEP(0)
        STEP(1)
        STEP(2)
        STEP(3)
        if (!q4) {
            STEP(4)
            STEP(5)
            STEP(6)
            STEP(7)
        }
#undef STEP
        scales_of(w, dw);
        for (int j = 0; j < tokens; j++)
            for (int r = 0; r < 4; r++)
                acc[j][r] = scaled(acc[j][r], dw[r], d[(size_t)j * row + b], isum[j][r]);
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
    for (uint32_t n = 0; n < tiles; n++, values += tile_bytes, uq += 32) {
        int32x4_t isum[3][4];
        int8x16_t u[3][2], v[4];
        for (int h = 0; h < heads; h++) {
            for (int r = 0; r < 4; r++)
                isum[h][r] = vdupq_n_s32(0);
            load_pair(uq + h * stride, &u[h][0], &u[h][1]);
        }
#define STEP(g)                                                                                \
    load_pair(values + (g) * step, &v[0], &v[1]);                                              \
    load_pair(values + (g) * step + 32, &v[2], &v[3]);                                         \
    for (int r = 0; r < 4; r++) {                                                              \
        for (int h = 0; h < heads; h++)                                                        \
            isum[h][r] = vdotq_laneq_s32(isum[h][r], v[r], u[h][(g) / 4], (g) % 4);            \
    }
        STEP(0)
        STEP(1)
        STEP(2)
        STEP(3)
        STEP(4)
        STEP(5)
        STEP(6)
        STEP(7)
#undef STEP
        for (int h = 0; h < heads; h++) {
            const float d = du[h * (stride / 32) + n];
            for (int r = 0; r < 4; r++)
                acc[h][r] = vaddq_f32(acc[h][r], vmulq_n_f32(vcvtq_f32_s32(isum[h][r]), d));
        }
    }
    for (int h = 0; h < heads; h++)
        for (int r = 0; r < 4; r++)
            vst1q_f32(out + h * out_stride + 4 * r, acc[h][r]);
}

/* A function a step, which keeps its registers apart: all tiles of a few groups. */
typedef void tiles_function(const panel (*w)[SPAN], uint32_t groups, uint32_t count,
                            const batch *p, float *out, size_t stride);
#define TILES(name, step)                                                                      \
    static __attribute__((noinline)) void name(const panel(*w)[SPAN], uint32_t groups,         \
                                               uint32_t count, const batch *p, float *out,     \
                                               size_t stride)                                  \
    {                                                                                          \
        for (uint32_t half = 0; half < 2 * groups; half++, out += 8)                           \
            tile(step, w[half / 2], half % 2, count, p, out, stride);                          \
    }
TILES(scaled_tiles, QE_STEP_SCALED)
TILES(affine_tiles, QE_STEP_AFFINE)
TILES(halves_tiles, QE_STEP_HALVES)
TILES(halves_min_tiles, QE_STEP_HALVES_MIN)
TILES(row_tiles, QE_STEP_ROW)
#undef TILES

static tiles_function *tiles_of(const qe_format *f)
{
    switch (f->step) {
    case QE_STEP_AFFINE: return affine_tiles;
    case QE_STEP_HALVES: return halves_tiles;
    case QE_STEP_HALVES_MIN: return halves_min_tiles;
    case QE_STEP_ROW: return row_tiles;
    default: return scaled_tiles;
    }
}

#define QE_THREES
#include "neon_products.h"
