/* neon_dot.h - products by SDOT, for the sets of cores that have it: dotprod.c and i8mm.c. They
 * bring, for tiles of 8 rows by 8 tokens:
 *   arrange(panels, act, token, first, count, q4): blocks of 8 activation rows as panels
 *   tile(w, half, q4, count, panels, out, stride, goes_on): rows 8 * half .. 8 * half + 7 of a
 *     group over count blocks of columns; the sums go on from out where goes_on is 1 */
#include "neon_base.h"

enum {
    TOKENS = 8,         /* of a tile */
    SPAN = 32,          /* blocks of columns at a time: panels of 17 KiB */
    GROUPS_AT_ONCE = 16 /* groups of rows that a span's activations are arranged for */
};

/* A block of columns of eight tokens. */
typedef struct {
    int8_t x[TOKENS * 32];      /* in the order of the set's tile, as the others are */
    int32_t offset[TOKENS * 8]; /* what isum begins with: -8 times the sum, or 0; for 8 rows */
    float d[TOKENS * 2];
} panel;

INLINE void arrange(panel *p, const qe_act *act, size_t token, uint32_t first, uint32_t count,
                    int q4);
INLINE void tile(const uint8_t *w, int half, int q4, uint32_t count, const panel *p, float *out,
                 size_t stride, int goes_on);

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

/* Tiles for whole eights of tokens, a span of columns at a time; single rows for the rest. */
INLINE void products(const qe_matmul *m, int q4, uint32_t first, uint32_t count)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32, end = first + count;
    const size_t bytes = block_bytes(q4), step = blocks * bytes;
    uint32_t tiled = m->tokens / TOKENS * TOKENS;
    panel panels[SPAN];
    for (uint32_t from = first; tiled && from < end; from += GROUPS_AT_ONCE) {
        const uint32_t to = end - from < GROUPS_AT_ONCE ? end : from + GROUPS_AT_ONCE;
        for (uint32_t b = 0; b < blocks; b += SPAN) {
            const uint32_t now = blocks - b < SPAN ? blocks - b : SPAN;
            for (uint32_t t = 0; t < tiled; t += TOKENS) {
                arrange(panels, &m->act, t, b, now, q4);
                for (uint32_t group = from; group < to; group++)
                    for (int half = 0; half < 2; half++)
                        tile(m->w + group * step + b * bytes, half, q4, now, panels,
                             m->out + t * m->out_stride + group * 16 + 8 * half, m->out_stride,
                             b > 0);
            }
        }
    }
    for (uint32_t group = first; group < end; group++) {
        const uint8_t *w = m->w + group * step;
        uint32_t t = tiled;
        for (; t + 3 <= m->tokens; t += 3)
            rows_by_tokens(w, q4, blocks, &m->act, t, 3,
                           m->out + t * m->out_stride + group * 16, m->out_stride);
        for (; t < m->tokens; t++)
            rows_by_tokens(w, q4, blocks, &m->act, t, 1,
                           m->out + t * m->out_stride + group * 16, m->out_stride);
    }
}
