/* portable.c - the kernels in plain C. The definition of right: every other set must equal it,
 * bit for bit. It reads every layout; speed is the business of the other sets. */
#include "kernels.h"
#include "scalar.h"

/* Row r of a tile against a block of activations; group is a constant after inlining. */
static inline int32_t tile_dot(const uint8_t *quants, uint32_t type, uint32_t R, uint32_t r,
                               uint32_t group, const int8_t *q)
{
    int32_t isum = 0;
    if (type == QE_Q4_0) {
        for (uint32_t j = 0; j < 16; j += group)
            for (uint32_t k = 0; k < group; k++) {
                const uint8_t byte = quants[j * R + r * group + k];
                isum += ((byte & 15) - 8) * q[j + k] + ((byte >> 4) - 8) * q[j + k + 16];
            }
        return isum;
    }
    for (uint32_t c = 0; c < 32; c += group)
        for (uint32_t k = 0; k < group; k++)
            isum += (int8_t)quants[c * R + r * group + k] * q[c + k];
    return isum;
}

/* One group of R rows against one token. */
static void tile_rows(const qe_matmul *m, const uint8_t *w, uint32_t R, uint32_t token,
                      float *out)
{
    const uint32_t group = m->layout >> 8, blocks = qe_ceil(m->columns, 32) / 32;
    const int8_t *q = m->act.q + token * m->act.stride;
    const float *d = m->act.d + token * (m->act.stride / 32);
    float acc[16] = {0};
    for (uint32_t b = 0; b < blocks; b++, w += qe_tile_bytes(m->type, R), q += 32) {
        for (uint32_t r = 0; r < R; r++) {
            const int32_t isum = group == 4 ? tile_dot(w + 2 * R, m->type, R, r, 4, q)
                                            : tile_dot(w + 2 * R, m->type, R, r, 8, q);
            const float dw = qe_half_to_float(qe_load16(w + 2 * r));
            acc[r] = acc[r] + (dw * d[b]) * (float)isum;
        }
    }
    memcpy(out, acc, R * sizeof(float));
}

static float plain_row(const uint8_t *w, uint32_t type, const float *x, uint32_t columns)
{
    float s[16] = {0};
    for (uint32_t i = 0; i < columns; i++)
        s[i % 16] = s[i % 16] + plain_value(w, i, type == QE_F16) * x[i];
    return halves(s);
}

void qe_portable_matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    const uint32_t columns = qe_ceil(m->columns, 32), R = m->layout & 255u;
    const uint32_t end =
        (first + count) * 16 < qe_ceil(m->rows, R) ? (first + count) * 16 : qe_ceil(m->rows, R);
    for (uint32_t row = first * 16; row < end; row += R) {
        for (uint32_t t = 0; t < m->tokens; t++) {
            float *out = m->out + t * m->out_stride + row;
            if (m->type == QE_Q4_0 || m->type == QE_Q8_0) {
                size_t tile_row = qe_tile_bytes(m->type, R) * (columns / 32);
                tile_rows(m, m->w + row / R * tile_row, R, t, out);
            } else {
                size_t row_bytes = (size_t)columns * (m->type == QE_F16 ? 2 : 4);
                *out =
                    plain_row(m->w + row * row_bytes, m->type, m->x + t * m->x_stride, columns);
            }
        }
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
