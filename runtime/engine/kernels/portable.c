/* portable.c - the kernels in plain C. The definition of right: every other set must equal it,
 * bit for bit. It reads every layout; speed is the business of the other sets. */
#include "kernels.h"
#include "scalar.h"

/* The sum of products over 16 columns, exact. */
static int32_t dot(const int8_t *w, const int8_t *x)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < 16; i++)
        sum += w[i] * x[i];
    return sum;
}

/* SPEC 2.5: how a row's sum goes on by one block, against activations q, scale dx and sums s.
 */
static float step(float acc, const qe_format *f, const qe_block *w, const int8_t *q, float dx,
                  const int16_t *s)
{
    const int32_t first = dot(w->q, q), second = dot(w->q + 16, q + 16);
    switch (f->step) {
    case QE_STEP_AFFINE:
        return acc +
               ((w->d * dx) * (float)(first + second) + w->m * (dx * (float)qe_block_sum(s)));
    case QE_STEP_HALVES: return acc + (w->d * dx) * (float)(w->s[0] * first + w->s[1] * second);
    case QE_STEP_HALVES_MIN:
        return acc + ((w->d * dx) * (float)(w->s[0] * first + w->s[1] * second) -
                      (w->m * dx) * (float)(w->n[0] * s[0] + w->n[1] * s[1]));
    case QE_STEP_ROW: return acc + dx * (float)(w->s[0] * (first + second));
    }
    return acc + (w->d * dx) * (float)(first + second);
}

/* One row, number r of the R that begin at w, against all tokens. */
static void quantized_row(const qe_matmul *m, const qe_format *f, const uint8_t *w, uint32_t R,
                          uint32_t r, float *out)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const size_t stride = m->act.stride;
    qe_block block = {.d = 0.0f};
    for (uint32_t t = 0; t < m->tokens; t++)
        out[t * m->out_stride] = 0.0f;
    for (uint32_t b = 0; b < blocks; b++) {
        qe_block_read(f, w, R, r, b, &block);
        for (size_t t = 0, at = b; t < m->tokens; t++, at += stride / 32)
            out[t * m->out_stride] = step(out[t * m->out_stride], f, &block, m->act.q + 32 * at,
                                          m->act.d[at], m->act.s + 2 * at);
    }
    for (uint32_t t = 0; f->step == QE_STEP_ROW && t < m->tokens; t++)
        out[t * m->out_stride] = out[t * m->out_stride] * block.d;
}

static float plain_row(const uint8_t *w, uint32_t type, const float *x, uint32_t columns)
{
    float s[16] = {0};
    for (uint32_t i = 0; i < columns; i++)
        s[i % 16] = s[i % 16] + qe_plain_value(w, i, type) * x[i];
    return halves(s);
}

void qe_portable_matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    const qe_format *f = qe_format_of(m->type);
    const uint32_t columns = qe_ceil(m->columns, 32), R = m->layout;
    const uint32_t end =
        (first + count) * 16 < qe_ceil(m->rows, R) ? (first + count) * 16 : qe_ceil(m->rows, R);
    for (uint32_t row = first * 16; row < end; row++) {
        float *out = m->out + row;
        if (f) {
            quantized_row(m, f, m->w + row / R * qe_group_bytes(f, R, columns), R, row % R,
                          out);
            continue;
        }
        const uint8_t *w = m->w + (size_t)row * columns * (m->type == QE_F32 ? 4 : 2);
        for (uint32_t t = 0; t < m->tokens; t++)
            out[t * m->out_stride] = plain_row(w, m->type, m->x + t * m->x_stride, columns);
    }
}

void qe_portable_score_q8(const uint8_t *k, uint32_t tiles, uint32_t head_size, const qe_act *q,
                          uint32_t heads, float *scores, size_t stride)
{
    for (uint32_t tile = 0; tile < tiles; tile++, k += qe_key_tile_bytes(head_size)) {
        for (uint32_t h = 0; h < heads; h++) {
            const uint8_t *block = k;
            float acc[16] = {0};
            for (uint32_t b = 0; b * 32 < head_size; b++) {
                uint32_t width = head_size - b * 32 < 32 ? head_size - b * 32 : 32;
                const int8_t *qb = q->q + h * q->stride + b * 32;
                float dq = q->d[h * (q->stride / 32) + b];
                for (uint32_t p = 0; p < 16; p++) {
                    int32_t isum = 0;
                    for (uint32_t i = 0; i < width; i++)
                        isum += (int8_t)block[32 + i / 4 * 64 + p * 4 + i % 4] * qb[i];
                    float dk = qe_half_to_float(qe_load16(block + 2 * p));
                    acc[p] = acc[p] + (dk * dq) * (float)isum;
                }
                block += 32 + (size_t)width * 16;
            }
            memcpy(scores + h * stride + tile * 16, acc, sizeof acc);
        }
    }
}

static void mix_tile(const uint8_t *values, uint32_t head_size, uint32_t width,
                     const int8_t *uq, float du, float *out)
{
    for (uint32_t i = 0; i < width; i++) {
        int32_t isum = 0;
        for (uint32_t p = 0; p < 32; p++)
            isum += (int8_t)values[p / 4 * head_size * 4 + i * 4 + p % 4] * uq[p];
        out[i] = out[i] + du * (float)isum;
    }
}

void qe_portable_mix_q8(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                        uint32_t width, uint32_t heads, const int8_t *uq, const float *du,
                        size_t stride, float *out, size_t out_stride)
{
    const size_t first = (size_t)(head_size + 31) / 32 * 64 + c * 32 * 4;
    for (uint32_t tile = 0; tile < tiles; tile++, v += qe_value_tile_bytes(head_size))
        for (uint32_t h = 0; h < heads; h++)
            mix_tile(v + first, head_size, width, uq + h * stride + tile * 32,
                     du[h * (stride / 32) + tile], out + h * out_stride);
}

const qe_kernels qe_portable = {
    .name = "portable",
    .quantize = quantize,
    .matmul = qe_portable_matmul,
    .rmsnorm = rmsnorm,
    .silu_mul = silu_mul,
    .score_q8 = qe_portable_score_q8,
    .softmax = softmax,
    .weigh_q8 = weigh_q8,
    .mix_q8 = qe_portable_mix_q8,
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
