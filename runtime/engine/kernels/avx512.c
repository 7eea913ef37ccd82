/* avx512.c - kernels for AVX-512 with VNNI (Zen 4, Ice Lake and later). A register holds 16
 * rows by 4 columns, so a lane owns a row; equal to portable.c. */
#if defined(__x86_64__) && !defined(QE_PORTABLE_ONLY)
#include "amx.h"
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(                                                                  \
    __attribute__((                                                                            \
        target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c" QE_EVEX512))),        \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target(                                                                            \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c,prefer-vector-width=512")
#endif

#define W 16
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));

static inline vf half_load(const uint8_t *p)
{
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline vi most(vi a, vi b)
{
    return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b);
}

static inline int32_t most_of(vi v)
{
    return _mm512_reduce_max_epi32((__m512i)v);
}

static inline int32_t sum_of(vi v)
{
    return _mm512_reduce_add_epi32((__m512i)v);
}

static inline vf larger(vf a, vf b)
{
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
}

static inline float largest_of(vf v)
{
    return _mm512_reduce_max_ps((__m512)v);
}

static inline void low_bytes(const vi v[2], int8_t *q)
{
    for (int i = 0; i < 2; i++)
        _mm_storeu_si128((__m128i *)(void *)(q + 16 * i), _mm512_cvtepi32_epi8((__m512i)v[i]));
}

#define QE_OWN_SURVEY
#include "lanes.h"

static uint32_t survey(const uint32_t *w, uint32_t n, uint32_t least, uint64_t *sum)
{
    __m512i even = _mm512_setzero_si512(), odd = even;
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 here = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xFFFF;
        const __m512i v = _mm512_maskz_loadu_epi32(here, w + i);
        const __mmask16 kept =
            _mm512_mask_cmpge_epu32_mask(here, v, _mm512_set1_epi32((int)least));
        found += (uint32_t)__builtin_popcount(kept);
        even = _mm512_add_epi64(even, _mm512_maskz_mov_epi32(kept & 0x5555, v));
        odd = _mm512_add_epi64(odd,
                               _mm512_srli_epi64(_mm512_maskz_mov_epi32(kept & 0xAAAA, v), 32));
    }
    *sum = (uint64_t)_mm512_reduce_add_epi64(_mm512_add_epi64(even, odd));
    return found;
}

/* Compressed in a register: compressing into memory is slow on Zen 4. */
static void pick(const uint32_t *w, uint32_t n, uint32_t lo, uint32_t span, uint32_t *at,
                 uint32_t *picked)
{
    const __m512i steps =
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (uint32_t i = 0; i < n; i += 16) {
        const __mmask16 here = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xFFFF;
        const __m512i v = _mm512_maskz_loadu_epi32(here, w + i);
        const __mmask16 in =
            _mm512_mask_cmplt_epu32_mask(here, _mm512_sub_epi32(v, _mm512_set1_epi32((int)lo)),
                                         _mm512_set1_epi32((int)span));
        if (!in)
            continue;
        const uint32_t count = (uint32_t)__builtin_popcount(in);
        const __mmask16 room = (__mmask16)((1u << count) - 1);
        const __m512i number = _mm512_add_epi32(steps, _mm512_set1_epi32((int)i));
        _mm512_mask_storeu_epi32(at, room, _mm512_maskz_compress_epi32(in, number));
        _mm512_mask_storeu_epi32(picked, room, _mm512_maskz_compress_epi32(in, v));
        at += count;
        picked += count;
    }
}

#define NT 4        /* tokens that share a load of the weights */
#define SPAN 32     /* blocks of columns at a time */
#define PREFETCH 32 /* blocks ahead */

static inline __m512i quants(const uint8_t *p)
{
    return _mm512_loadu_si512((const void *)p);
}

/* One step of a tile as unsigned bytes: q8_0 is offset by 128 (eight steps of 4 columns), q4_0
 * by 8 (four steps of 4 low and 4 high columns). */
static inline __m512i offset_q8(const uint8_t *p)
{
    return _mm512_xor_si512(quants(p), _mm512_set1_epi8(-128));
}

static inline __m512i low_nibbles(__m512i v)
{
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

static inline __m512i high_nibbles(__m512i v)
{
    return low_nibbles(_mm512_srli_epi16(v, 4));
}

static inline __m512i spread(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, 4);
    return _mm512_set1_epi32(v);
}

/* Blocks first .. first + count - 1 of `groups` groups of 16 rows (step bytes apart) against
 * `tokens` activation rows; both are constants after inlining. Sums go on from `out` unless
 * first is 0. */
static inline __attribute__((always_inline)) void
tile(const uint8_t *w, size_t step, int q4, uint32_t first, uint32_t count, const qe_act *act,
     size_t token, int groups, int tokens, float *out, size_t stride)
{
    const size_t bytes = q4 ? 288 : 544, row = act->stride / 32;
    const int8_t *q = act->q + token * act->stride + (size_t)first * 32;
    const float *d = act->d + token * row + first;
    const int16_t *s = act->s + 2 * (token * row + first);
    __m512 acc[NT][2];
    for (int j = 0; j < tokens; j++)
        for (int r = 0; r < groups; r++)
            acc[j][r] = first ? _mm512_loadu_ps(out + (size_t)j * stride + 16 * r)
                              : _mm512_setzero_ps();
    w += first * bytes;
    const int steps = q4 ? 4 : 8;
    for (uint32_t b = 0; b < count; b++, w += bytes) {
        __m512i isum[NT][2];
        if (token == 0 && tokens > 1) /* the first tokens fetch what the next span needs */
            for (int r = 0; r < groups; r++)
                for (size_t line = 0; line < bytes; line += 64)
                    _mm_prefetch((const char *)w + (size_t)r * step + PREFETCH * bytes + line,
                                 _MM_HINT_T1);
        for (int j = 0; j < tokens; j++) {
            const __m512i sum = _mm512_slli_epi32(
                _mm512_set1_epi32(qe_block_sum(s + 2 * (j * row + b))), q4 ? 3 : 7);
            for (int r = 0; r < groups; r++)
                isum[j][r] = _mm512_sub_epi32(_mm512_setzero_si512(), sum);
        }
#pragma GCC unroll 8
        for (int g = 0; g < steps; g++) {
            __m512i u[2], v[2];
            for (int r = 0; r < groups; r++) {
                const uint8_t *p = w + (size_t)r * step + 32 + 64 * g;
                u[r] = q4 ? low_nibbles(quants(p)) : offset_q8(p);
                v[r] = q4 ? high_nibbles(quants(p)) : u[r];
            }
#pragma GCC unroll 8
            for (int j = 0; j < tokens; j++) {
                const int8_t *x = q + (size_t)j * act->stride + b * 32 + 4 * g;
                const __m512i a = spread(x);
                for (int r = 0; r < groups; r++)
                    isum[j][r] = _mm512_dpbusd_epi32(isum[j][r], u[r], a);
                if (q4) {
                    const __m512i c = spread(x + 16);
                    for (int r = 0; r < groups; r++)
                        isum[j][r] = _mm512_dpbusd_epi32(isum[j][r], v[r], c);
                }
            }
        }
        for (int r = 0; r < groups; r++) {
            const __m512 dw = (__m512)half_load(w + (size_t)r * step);
            for (int j = 0; j < tokens; j++) {
                const __m512 scale = _mm512_mul_ps(dw, _mm512_set1_ps(d[(size_t)j * row + b]));
                acc[j][r] = _mm512_add_ps(acc[j][r],
                                          _mm512_mul_ps(scale, _mm512_cvtepi32_ps(isum[j][r])));
            }
        }
    }
    for (int j = 0; j < tokens; j++)
        for (int r = 0; r < groups; r++)
            _mm512_storeu_ps(out + (size_t)j * stride + 16 * r, acc[j][r]);
}

/* `groups` groups of 16 rows against all tokens, a span of columns at a time, so that the
 * weights of the span stay in the first cache while the tokens go by. */
static inline __attribute__((always_inline)) void group_rows(const qe_matmul *m, int q4,
                                                             uint32_t group, int groups)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const size_t step = (size_t)blocks * (q4 ? 288 : 544), stride = m->out_stride;
    const uint8_t *w = m->w + group * step;
    float *out = m->out + group * 16;
    if (m->tokens == 1) {
        for (int r = 0; r < groups; r++)
            tile(w + (size_t)r * step, step, q4, 0, blocks, &m->act, 0, 1, 1, out + 16 * r,
                 stride);
        return;
    }
    for (uint32_t b = 0, span; b < blocks; b += span) {
        uint32_t t = 0;
        span = blocks - b < SPAN ? blocks - b : SPAN;
        for (; t + NT <= m->tokens; t += NT)
            tile(w, step, q4, b, span, &m->act, t, groups, NT, out + t * stride, stride);
        for (; t + 2 <= m->tokens; t += 2)
            tile(w, step, q4, b, span, &m->act, t, groups, 2, out + t * stride, stride);
        for (; t < m->tokens; t++)
            tile(w, step, q4, b, span, &m->act, t, groups, 1, out + t * stride, stride);
    }
}

static void matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    if (common_matmul(m, first, count) || qe_avx512_products(m, first, count))
        return;
    const uint32_t end = first + count;
    for (uint32_t group = first; group < end; group += 2) {
        if (m->type == QE_Q4_0)
            if (group + 1 < end)
                group_rows(m, 1, group, 2);
            else
                group_rows(m, 1, group, 1);
        else if (group + 1 < end)
            group_rows(m, 0, group, 2);
        else
            group_rows(m, 0, group, 1);
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
    for (uint32_t n = 0; n < tiles; n++, k += qe_key_tile_bytes(head_size)) {
        uint32_t h = 0;
        for (; h + 3 <= heads; h += 3)
            tile(k, 0, 0, 0, head_size / 32, q, h, 1, 3, scores + h * stride + n * 16, stride);
        for (; h < heads; h++)
            tile(k, 0, 0, 0, head_size / 32, q, h, 1, 1, scores + h * stride + n * 16, stride);
    }
}

/* Weights are never negative, so they are the unsigned side; a lane owns a value. */
static inline __attribute__((always_inline)) void
mix_heads(const uint8_t *values, uint32_t tiles, uint32_t head_size, int heads,
          const int8_t *uq, const float *du, size_t stride, float *out, size_t out_stride)
{
    const size_t tile_bytes = qe_value_tile_bytes(head_size), step = (size_t)head_size * 4;
    __m512 acc[3][2];
    for (int h = 0; h < heads; h++)
        for (int r = 0; r < 2; r++)
            acc[h][r] = _mm512_loadu_ps(out + h * out_stride + 16 * r);
    for (uint32_t n = 0; n < tiles; n++, values += tile_bytes) {
        __m512i isum[3][2];
        for (int h = 0; h < heads; h++)
            isum[h][0] = isum[h][1] = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++) {
            const __m512i low = quants(values + (size_t)g * step),
                          high = quants(values + (size_t)g * step + 64);
#pragma GCC unroll 3
            for (int h = 0; h < heads; h++) {
                const __m512i u = spread(uq + h * stride + n * 32 + 4 * g);
                isum[h][0] = _mm512_dpbusd_epi32(isum[h][0], u, low);
                isum[h][1] = _mm512_dpbusd_epi32(isum[h][1], u, high);
            }
        }
        for (int h = 0; h < heads; h++) {
            const __m512 d = _mm512_set1_ps(du[h * (stride / 32) + n]);
            for (int r = 0; r < 2; r++)
                acc[h][r] =
                    _mm512_add_ps(acc[h][r], _mm512_mul_ps(d, _mm512_cvtepi32_ps(isum[h][r])));
        }
    }
    for (int h = 0; h < heads; h++)
        for (int r = 0; r < 2; r++)
            _mm512_storeu_ps(out + h * out_stride + 16 * r, acc[h][r]);
}

static void mix_q8(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                   uint32_t width, uint32_t heads, const int8_t *uq, const float *du,
                   size_t stride, float *out, size_t out_stride)
{
    uint32_t h = 0;
    if (head_size % 32) {
        qe_portable_mix_q8(v, tiles, head_size, c, width, heads, uq, du, stride, out,
                           out_stride);
        return;
    }
    v += head_size / 32 * 64 + c * 128;
    for (; h + 3 <= heads; h += 3)
        mix_heads(v, tiles, head_size, 3, uq + h * stride, du + h * (stride / 32), stride,
                  out + h * out_stride, out_stride);
    for (; h < heads; h++)
        mix_heads(v, tiles, head_size, 1, uq + h * stride, du + h * (stride / 32), stride,
                  out + h * out_stride, out_stride);
}

#if defined(__linux__)
/* Tokens that fill AMX's tiles go there. */
static void matmul_amx(const qe_matmul *m, uint32_t first, uint32_t count)
{
    const int tiled = (m->type == QE_Q4_0 || m->type == QE_Q8_0) && m->layout == 16 &&
                      m->tokens >= QE_AMX_TOKENS;
    if (!tiled) {
        matmul(m, first, count);
        return;
    }
    qe_amx_products(m, first, count);
    const uint32_t done = m->tokens / QE_AMX_TOKENS * QE_AMX_TOKENS;
    if (done < m->tokens) {
        qe_matmul rest = *m;
        rest.tokens = m->tokens - done;
        rest.act.q += done * m->act.stride;
        rest.act.d += done * (m->act.stride / 32);
        rest.act.s += done * (m->act.stride / 16);
        rest.out += done * m->out_stride;
        matmul(&rest, first, count);
    }
}
#endif

#define ENTRIES                                                                                \
    .quantize = quantize, .rmsnorm = rmsnorm, .silu_mul = silu_mul, .score_q8 = score_q8,      \
    .softmax = softmax, .weigh_q8 = weigh_q8, .mix_q8 = mix_q8, .score_f16 = score_f16,        \
    .mix_f16 = mix_f16, .score_f32 = score_f32, .mix_f32 = mix_f32, .weights = weights,        \
    .order = order, .survey = survey, .pick = pick, .first_largest = first_largest

const qe_kernels qe_avx512 = {.name = "avx512", .matmul = matmul, ENTRIES};
#if defined(__linux__)
const qe_kernels qe_amx = {.name = "amx", .matmul = matmul_amx, ENTRIES};
#endif

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int qe_no_avx512;
#endif
