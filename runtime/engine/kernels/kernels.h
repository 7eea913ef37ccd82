/* kernels.h - what a kernel set provides, and the plain values that it works on. Internal to
 * the engine. Every set must equal portable.c bit for bit (SPEC 2); a set may take entries from
 * portable.c where the machine gains nothing. */
#ifndef QE_KERNELS_H
#define QE_KERNELS_H

#include "formats.h"

#define QE_MAX_HEAD 512u
#define QE_MAX_GROUP 64u /* query heads that share a key-value head */

/* Rows of quantized activations: row t has its blocks at q + t * stride, d + t * stride / 32, s
 * + t * stride / 16; s has two sums a block, of q's first 16 and of the others. */
typedef struct {
    int8_t *q;
    float *d;
    int16_t *s;
    size_t stride;
} qe_act;

static inline int32_t qe_block_sum(const int16_t *s)
{
    return s[0] + s[1];
}

/* out[t * out_stride + r] = sum over columns of w[r][c] * x[t][c], for tokens rows of x. Padded
 * rows are written too: out_stride covers ceil(rows, 16). */
typedef struct {
    const uint8_t *w;
    uint32_t type, layout;
    uint32_t rows, columns;
    qe_act act;     /* for quantized weights */
    const float *x; /* for f16, bf16, f32: (tokens, x_stride), zero beyond columns */
    size_t x_stride;
    float *out;
    size_t out_stride;
    uint32_t tokens;
} qe_matmul;

typedef struct {
    const char *name;
    /* One row: ceil(n, 32) / 32 blocks to q, d, s. SPEC 2.3. */
    void (*quantize)(const float *x, uint32_t n, int8_t *q, float *d, int16_t *s);
    /* Row groups first .. first + count - 1; a group is 16 rows, in other layouts too. */
    void (*matmul)(const qe_matmul *m, uint32_t first, uint32_t count);
    void (*rmsnorm)(float *out, const float *x, const float *w, uint32_t n, float eps);
    /* gate[i] = silu(gate[i]) * up[i] */
    void (*silu_mul)(float *gate, const float *up, uint32_t n);
    /* scores[h * stride + j] for whole tiles of 16 positions against `heads` quantized queries.
     */
    void (*score_q8)(const uint8_t *k, uint32_t tiles, uint32_t head_size, const qe_act *q,
                     uint32_t heads, float *scores, size_t stride);
    /* s[0 .. n-1] becomes e_j = exp(s_j - max), then zeros up to ceil(n, 32); returns 1 / sum.
     */
    float (*softmax)(float *s, uint32_t n);
    /* u = e * v scale of value block c, quantized by 32 positions: uq (tiles * 32), du (tiles).
     */
    void (*weigh_q8)(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                     const float *e, int8_t *uq, float *du);
    /* out[h * out_stride + 0 .. width-1] of value block c goes on over tiles of 32 positions;
     * head h has its weights at uq + h * stride and du + h * stride / 32. */
    void (*mix_q8)(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                   uint32_t width, uint32_t heads, const int8_t *uq, const float *du,
                   size_t stride, float *out, size_t out_stride);
    /* f16 and f32 keys and values: (positions, head_size). */
    void (*score_f16)(const uint8_t *k, uint32_t n, uint32_t head_size, const float *q,
                      float *s);
    void (*mix_f16)(const uint8_t *v, uint32_t n, uint32_t head_size, const float *e,
                    float *out);
    void (*score_f32)(const uint8_t *k, uint32_t n, uint32_t head_size, const float *q,
                      float *s);
    void (*mix_f32)(const uint8_t *v, uint32_t n, uint32_t head_size, const float *e,
                    float *out);
    /* w[i] = (uint32) (exp((x[i] - top) * scale) * 2^30) | 1, or 0 where w[i] was below least.
     */
    void (*weights)(const float *x, uint32_t n, float top, float scale, uint32_t least,
                    uint32_t *w);
    /* Patterns of floats in an order that integers can compare; 0 is none. */
    void (*order)(const float *x, uint32_t n, uint32_t *keys);
    /* How many of w are at least `least`, and their sum. */
    uint32_t (*survey)(const uint32_t *w, uint32_t n, uint32_t least, uint64_t *sum);
    /* Where w is lo .. lo + span - 1: the indices and values, ascending. Both
     * have room for just so many. */
    void (*pick)(const uint32_t *w, uint32_t n, uint32_t lo, uint32_t span, uint32_t *at,
                 uint32_t *picked);
    /* The first index of the largest of x, n > 0. */
    uint32_t (*first_largest)(const float *x, uint32_t n);
} qe_kernels;

extern const qe_kernels qe_portable, qe_avx2, qe_avxvnni, qe_avx512, qe_amx, qe_neon,
    qe_dotprod, qe_i8mm, qe_armv7, qe_dsp, qe_mve, qe_thumb;

/* Bytes of a q8_0 key tile (16 positions) or value tile (32 positions) of one head. */
static inline size_t qe_key_tile_bytes(uint32_t head_size)
{
    return (size_t)(head_size + 31) / 32 * 32 + (size_t)head_size * 16;
}

static inline size_t qe_value_tile_bytes(uint32_t head_size)
{
    return (size_t)(head_size + 31) / 32 * 64 + (size_t)head_size * 32;
}

/* Weight i of a row of f32, f16 or bf16. */
static inline float qe_plain_value(const uint8_t *row, size_t i, uint32_t type)
{
    return type == QE_F32   ? qe_float(qe_load32(row + 4 * i))
           : type == QE_F16 ? qe_half_to_float(qe_load16(row + 2 * i))
                            : qe_float((uint32_t)qe_load16(row + 2 * i) << 16);
}

/* Pieces of portable.c that other sets fall back to for layouts and shapes they have no code
 * for. */
void qe_portable_matmul(const qe_matmul *m, uint32_t first, uint32_t count);
void qe_portable_score_q8(const uint8_t *k, uint32_t tiles, uint32_t head_size, const qe_act *q,
                          uint32_t heads, float *scores, size_t stride);
void qe_portable_mix_q8(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                        uint32_t width, uint32_t heads, const int8_t *uq, const float *du,
                        size_t stride, float *out, size_t out_stride);

#endif
