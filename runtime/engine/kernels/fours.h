/* fours.h - matrix products and attention for processors that take four rows at a time: the
 * microcontrollers' sets, and ARMv6. A set defines, before it includes this,
 *
 *   FOURS_AT_ONCE: how many fours of rows share what is prepared, 1 to 4;
 *   columns: what is made of activations, once for all of these;
 *   void prepare_q8(const int8_t *x, uint32_t n, columns *c);
 *   void prepare_q4(const int8_t *x, columns *c);
 *     of 4 n columns, and of a block of 32;
 *   void sums_q8(const uint8_t *w, size_t step, uint32_t n, const columns *c, int32_t isum[4]);
 *     sums of products of four rows over 4 n columns: row r has columns 4 i .. 4 i + 3 in the
 *     word at w + i * step + 4 r;
 *   void sums_q4(const uint8_t *w, const columns *c, int32_t s, int32_t isum[4]);
 *     of a block of q4_0 in layout (4, 4); s is the sum of its columns;
 *   void add_block(float acc[4], const uint8_t *scales, float d, const int32_t isum[4]);
 *     acc[r] = acc[r] + (scale r * d) * isum[r], each step rounded (SPEC 2.5);
 *   float add_scaled(float to, float d, int32_t isum);
 *     to + d * isum, |isum| < 2^20.
 *
 * Every pointer is aligned to 4. Layouts other than (4, 4) go to portable.c. */
#include "scalar.h"

#define FOURS_LAYOUT 4

static inline void products(const qe_matmul *m, int q4, uint32_t first, uint32_t end)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const size_t bytes = q4 ? 72 : 136, row = m->act.stride / 32;
    for (uint32_t at = first; at < end; at += FOURS_AT_ONCE) {
        const uint32_t fours = end - at < FOURS_AT_ONCE ? end - at : FOURS_AT_ONCE;
        for (uint32_t t = 0; t < m->tokens; t++) {
            const uint8_t *w = m->w + (size_t)at * blocks * bytes;
            const int8_t *x = m->act.q + t * m->act.stride;
            float acc[4 * FOURS_AT_ONCE] = {0};
            for (uint32_t b = 0; b < blocks; b++, w += bytes, x += 32) {
                columns c;
                if (q4)
                    prepare_q4(x, &c);
                else
                    prepare_q8(x, 8, &c);
                for (uint32_t i = 0; i < fours; i++) {
                    const uint8_t *tile = w + (size_t)i * blocks * bytes;
                    int32_t isum[4];
                    if (q4)
                        sums_q4(tile + 8, &c, qe_block_sum(m->act.s + 2 * (t * row + b)), isum);
                    else
                        sums_q8(tile + 8, 16, 8, &c, isum);
                    add_block(acc + 4 * i, tile, m->act.d[t * row + b], isum);
                }
            }
            memcpy(m->out + t * m->out_stride + at * 4, acc, fours * 16);
        }
    }
}

static void matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    if ((m->type != QE_Q4_0 && m->type != QE_Q8_0) || m->layout != FOURS_LAYOUT) {
        qe_portable_matmul(m, first, count);
        return;
    }
    const uint32_t fours = qe_ceil(m->rows, 4) / 4,
                   end = (first + count) * 4 < fours ? (first + count) * 4 : fours;
    if (m->type == QE_Q4_0)
        products(m, 1, first * 4, end);
    else
        products(m, 0, first * 4, end);
}

static void score_q8(const uint8_t *k, uint32_t tiles, uint32_t head_size, const qe_act *q,
                     uint32_t heads, float *scores, size_t stride)
{
    for (uint32_t tile = 0; tile < tiles; tile++, k += qe_key_tile_bytes(head_size))
        for (uint32_t h = 0; h < heads; h++) {
            const uint8_t *block = k;
            float acc[16] = {0};
            for (uint32_t b = 0; b * 32 < head_size; b++) {
                const uint32_t width = head_size - b * 32 < 32 ? head_size - b * 32 : 32;
                columns c;
                prepare_q8(q->q + h * q->stride + 32 * b, width / 4, &c);
                for (uint32_t p = 0; p < 16; p += 4) {
                    int32_t isum[4];
                    sums_q8(block + 32 + 4 * p, 64, width / 4, &c, isum);
                    add_block(acc + p, block + 2 * p, q->d[h * (q->stride / 32) + b], isum);
                }
                block += 32 + (size_t)width * 16;
            }
            memcpy(scores + h * stride + tile * 16, acc, sizeof acc);
        }
}

static void mix_q8(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                   uint32_t width, uint32_t heads, const int8_t *uq, const float *du,
                   size_t stride, float *out, size_t out_stride)
{
    v += (size_t)(head_size + 31) / 32 * 64 + (size_t)c * 128;
    for (uint32_t tile = 0; tile < tiles; tile++, v += qe_value_tile_bytes(head_size))
        for (uint32_t h = 0; h < heads; h++) {
            const float d = du[h * (stride / 32) + tile];
            columns of;
            prepare_q8(uq + h * stride + (size_t)tile * 32, 8, &of);
            for (uint32_t i = 0; i < width; i += 4) {
                int32_t isum[4];
                float *to = out + h * out_stride + i;
                sums_q8(v + 4 * (size_t)i, (size_t)head_size * 4, 8, &of, isum);
                for (int r = 0; r < 4; r++)
                    to[r] = add_scaled(to[r], d, isum[r]);
            }
        }
}

#define FOURS_SET(set_name)                                                                    \
    {                                                                                          \
        .name = set_name,                                                                      \
        .quantize = quantize,                                                                  \
        .matmul = matmul,                                                                      \
        .rmsnorm = rmsnorm,                                                                    \
        .silu_mul = silu_mul,                                                                  \
        .score_q8 = score_q8,                                                                  \
        .softmax = softmax,                                                                    \
        .weigh_q8 = weigh_q8,                                                                  \
        .mix_q8 = mix_q8,                                                                      \
        .score_f16 = score_f16,                                                                \
        .mix_f16 = mix_f16,                                                                    \
        .score_f32 = score_f32,                                                                \
        .mix_f32 = mix_f32,                                                                    \
        .weights = weights,                                                                    \
        .order = order,                                                                        \
        .survey = survey,                                                                      \
        .pick = pick,                                                                          \
        .first_largest = first_largest,                                                        \
    }
