/* avx512.c - kernels for AVX-512 with VNNI (Zen 4, Ice Lake and later). A register holds 16 rows by 4
 * columns, so a lane owns a row; equal to portable.c. */
#if defined(__x86_64__)
#include "kernels.h"
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c,prefer-vector-width=512")
#endif

#define W 16
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));

static inline vf half_load(const uint8_t *p)
{
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline void narrow(vi v, int8_t *q)
{
    _mm_storeu_si128((__m128i *)(void *)q, _mm512_cvtepi32_epi8((__m512i)v));
}

#include "lanes.h"

#define NT 6      /* tokens that share a load of the weights */
#define PREFETCH 16 /* blocks ahead */

static inline __m512i quants(const uint8_t *p)
{
    return _mm512_loadu_si512((const void *)p);
}

static inline int32_t four(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, 4);
    return v;
}

/* The eight column groups of a tile as unsigned bytes: q8_0 is offset by 128, q4_0 by 8. */
static inline void unpack_q8(const uint8_t *p, __m512i u[8])
{
    const __m512i flip = _mm512_set1_epi8(-128);
    for (int g = 0; g < 8; g++)
        u[g] = _mm512_xor_si512(quants(p + 64 * g), flip);
}

static inline void unpack_q4(const uint8_t *p, __m512i u[8])
{
    const __m512i low = _mm512_set1_epi8(15);
    for (int g = 0; g < 4; g++) {
        const __m512i v = quants(p + 64 * g);
        u[g] = _mm512_and_si512(v, low);
        u[g + 4] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
    }
}

/* Rows of one group of 16 against `tokens` (a constant after inlining) activation rows. */
static inline __attribute__((always_inline)) void tile_row(const uint8_t *w, int q4, uint32_t blocks,
                                                           const qe_act *act, size_t token,
                                                           int tokens, float *out, size_t stride)
{
    const size_t tile = q4 ? 288 : 544;
    const int8_t *q = act->q + token * act->stride;
    const size_t row = act->stride / 32;
    const float *d = act->d + token * row;
    const int32_t *s = act->s + token * row;
    __m512 acc[NT];
    for (int j = 0; j < tokens; j++)
        acc[j] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < blocks; b++, w += tile) {
        __m512i u[8];
        if (tokens == 1)
            for (size_t line = 0; line < tile; line += 64)
                _mm_prefetch((const char *)w + PREFETCH * tile + line, _MM_HINT_T0);
        const __m512 dw = (__m512)half_load(w);
        if (q4)
            unpack_q4(w + 32, u);
        else
            unpack_q8(w + 32, u);
#pragma GCC unroll 6
        for (int j = 0; j < tokens; j++) {
            const int8_t *x = q + (size_t)j * act->stride + b * 32;
            __m512i i0 = _mm512_set1_epi32(s[(size_t)j * row + b] * (q4 ? -8 : -128));
            __m512i i1 = _mm512_setzero_si512();
#pragma GCC unroll 4
            for (int g = 0; g < 8; g += 2) {
                i0 = _mm512_dpbusd_epi32(i0, u[g], _mm512_set1_epi32(four(x + 4 * g)));
                i1 = _mm512_dpbusd_epi32(i1, u[g + 1], _mm512_set1_epi32(four(x + 4 * g + 4)));
            }
            const __m512 scale = _mm512_mul_ps(dw, _mm512_set1_ps(d[(size_t)j * row + b]));
            acc[j] = _mm512_add_ps(
                acc[j], _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_add_epi32(i0, i1))));
        }
    }
    for (int j = 0; j < tokens; j++)
        _mm512_storeu_ps(out + (size_t)j * stride, acc[j]);
}

static inline __attribute__((always_inline)) void group_rows(const qe_matmul *m, int q4, uint32_t group)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const uint8_t *w = m->w + (size_t)group * blocks * (q4 ? 288 : 544);
    uint32_t t = 0;
    for (; t + NT <= m->tokens; t += NT)
        tile_row(w, q4, blocks, &m->act, t, NT, m->out + t * m->out_stride + group * 16, m->out_stride);
    for (; t + 3 <= m->tokens; t += 3)
        tile_row(w, q4, blocks, &m->act, t, 3, m->out + t * m->out_stride + group * 16, m->out_stride);
    for (; t < m->tokens; t++)
        tile_row(w, q4, blocks, &m->act, t, 1, m->out + t * m->out_stride + group * 16, m->out_stride);
}

static void matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    if (common_matmul(m, first, count))
        return;
    for (uint32_t group = first; group < first + count; group++) {
        if (m->type == QE_Q4_0)
            group_rows(m, 1, group);
        else
            group_rows(m, 0, group);
    }
}

/* A key tile of whole blocks has the bytes of a q8_0 weight tile. */
static void score_q8(const uint8_t *k, uint32_t tiles, uint32_t head_size, const qe_act *q,
                     uint32_t heads, float *scores, size_t stride)
{
    if (head_size % 32) {
        qe_portable_score_q8(k, tiles, head_size, q, heads, scores, stride);
        return;
    }
    for (uint32_t tile = 0; tile < tiles; tile++, k += qe_key_tile_bytes(head_size)) {
        uint32_t h = 0;
        for (; h + 3 <= heads; h += 3)
            tile_row(k, 0, head_size / 32, q, h, 3, scores + h * stride + tile * 16, stride);
        for (; h < heads; h++)
            tile_row(k, 0, head_size / 32, q, h, 1, scores + h * stride + tile * 16, stride);
    }
}

/* Weights are never negative, so they are the unsigned side; a lane owns a value. */
static void mix_q8(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c, uint32_t width,
                   const int8_t *uq, const float *du, float *out)
{
    if (head_size % 32) {
        qe_portable_mix_q8(v, tiles, head_size, c, width, uq, du, out);
        return;
    }
    const uint8_t *values = v + head_size / 32 * 64 + c * 128;
    const size_t tile_bytes = qe_value_tile_bytes(head_size), step = (size_t)head_size * 4;
    __m512 a = _mm512_setzero_ps(), b = a;
    for (uint32_t tile = 0; tile < tiles; tile++, values += tile_bytes) {
        __m512i ia = _mm512_setzero_si512(), ib = ia;
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++) {
            const __m512i u = _mm512_set1_epi32(four(uq + tile * 32 + 4 * g));
            ia = _mm512_dpbusd_epi32(ia, u, quants(values + (size_t)g * step));
            ib = _mm512_dpbusd_epi32(ib, u, quants(values + (size_t)g * step + 64));
        }
        const __m512 d = _mm512_set1_ps(du[tile]);
        a = _mm512_add_ps(a, _mm512_mul_ps(d, _mm512_cvtepi32_ps(ia)));
        b = _mm512_add_ps(b, _mm512_mul_ps(d, _mm512_cvtepi32_ps(ib)));
    }
    _mm512_storeu_ps(out, a);
    _mm512_storeu_ps(out + 16, b);
}

const qe_kernels qe_avx512 = {
    .name = "avx512",
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
};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int qe_no_avx512;
#endif
