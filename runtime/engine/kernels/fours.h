/* fours.h - matrix products and attention for processors that take four rows at a time: the
 * microcontrollers' sets, and ARMv6. A set defines, before it includes this,
 *
 *   FOURS_HOT: 1, some types have code of their own, for their numbers alone; or 0;
 *   columns: what is made of activations, once for all of these;
 *   void prepare_q8(const int8_t *x, uint32_t n, columns *c);
 *   void prepare(const int8_t *x, columns *c);
 *     of 4 n columns for sums_q8, and of a block of 32 for the others;
 *   void sums_q8(const uint8_t *w, size_t step, uint32_t n, const columns *c, int32_t isum[4]);
 *     sums of products of four rows over 4 n columns: row r has columns 4 i .. 4 i + 3 in the
 *     word at w + i * step + 4 r;
 *   void sums(const uint8_t *w, uint32_t bits, int any, const columns *c, int32_t isum[4]);
 *   void sums_halves(const uint8_t *w, uint32_t bits, const columns *c, int32_t isum[8]);
 *     of a block of levels of 1 to 6 bits (any: how many is not known when it is compiled) as
 * they are stored, from 0 on, those of 1 bit doubled; of halves: first the four sums over
 * columns 0 .. 15, and only 2, 3 and 6 bits; float half_at(const uint8_t *p); float
 * half_times(const uint8_t *p, float x); half_at(p) * x float product(float x, int32_t n); x *
 * (float)n, |n| < 2^28 float add_product(float to, float x, int32_t n); to + product(x, n)
 *
 * Every pointer is aligned to 4. Layouts other than 4, types of floats and those whose levels
 * are numbers of a table go to portable.c. */
#include "fours_steps.h"
#include "scalar.h"

#define FOURS_LAYOUT 4

INLINE void products(const qe_matmul *m, const qe_format *f, uint32_t first, uint32_t end,
                     int any)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const size_t group = qe_group_bytes(f, 4, m->columns);
    block_at a;
    for (uint32_t at = first; at < end; at += FOURS_AT_ONCE) {
        const uint32_t fours = end - at < FOURS_AT_ONCE ? end - at : FOURS_AT_ONCE;
        const uint8_t *w = m->w + at * group;
        for (uint32_t t = 0; t < m->tokens; t++) {
            const int8_t *x = m->act.q + t * m->act.stride;
            float acc[4 * FOURS_AT_ONCE] = {0};
            a.levels = 4u * f->row_head;
            for (uint32_t b = 0; b < blocks; b++, x += 32, a.levels += 16u * f->bits) {
                const size_t block = t * (m->act.stride / 32) + b;
                a.i = b & (f->period - 1u); /* periods are powers of two */
                if (!a.i) {
                    a.head = a.levels;
                    a.levels += 4u * f->head;
                }
                a.dx = m->act.d[block];
                a.s = m->act.s + 2 * block;
                a.xsum = qe_block_sum(a.s);
                if (f->step == QE_STEP_AFFINE)
                    a.dxs = product(a.dx, a.xsum);
                if (f->bits == 8)
                    prepare_q8(x, 8, &a.c);
                else
                    prepare(x, &a.c);
                for (uint32_t i = 0; i < fours; i++)
                    if (any)
                        add_any_block(acc + 4 * i, w + i * group, &a, f);
                    else
                        add_block(acc + 4 * i, w + i * group, &a, f, 0);
            }
            for (uint32_t r = 0; f->row_head && r < 4 * fours; r++)
                acc[r] = acc[r] * qe_float(qe_load32(w + r / 4 * group + r % 4 * 4));
            memcpy(m->out + t * m->out_stride + at * 4, acc, fours * 16);
        }
    }
}

#if FOURS_HOT
static const qe_format q4_0 = {QE_Q4_0, 4, 1, 2, 1, 0, QE_STEP_SCALED},
                       q8_0 = {QE_Q8_0, 8, 1, 2, 1, 0, QE_STEP_SCALED},
                       a4 = {QE_A4, 4, 1, 2, 0, 4, QE_STEP_ROW};
#endif

static void matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    const qe_format *f = qe_format_of(m->type);
    if (!f || m->layout != FOURS_LAYOUT || m->type == QE_IQ4_NL || m->type == QE_IQ4_XS ||
        m->type == QE_MXFP4) {
        qe_portable_matmul(m, first, count);
        return;
    }
    const uint32_t fours = qe_ceil(m->rows, 4) / 4,
                   end = (first + count) * 4 < fours ? (first + count) * 4 : fours;
#if FOURS_HOT
    switch (m->type) { /* those of the most models, with all that is known of them */
    case QE_Q4_0: products(m, &q4_0, first * 4, end, 0); return;
    case QE_Q8_0: products(m, &q8_0, first * 4, end, 0); return;
    case QE_A4: products(m, &a4, first * 4, end, 0); return;
    }
#endif
    products(m, f, first * 4, end, 1);
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
                    add_scaled(acc + p, block + 2 * p, q->d[h * (q->stride / 32) + b], isum);
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
                    to[r] = add_product(to[r], d, isum[r]);
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
