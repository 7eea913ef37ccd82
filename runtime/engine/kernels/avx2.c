/* avx2.c - kernels for AVX2 with F16C (any x86-64-v3), and for AVX-VNNI beside them; matrix
 * products are avx2_products.c's and avxvnni.c's. Equal to portable.c. */
#if defined(__x86_64__) && !defined(QE_PORTABLE_ONLY)
#include "avx2_products.h"
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif

#define W 8
typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));

static inline vf half_load(const uint8_t *p)
{
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline vi most(vi a, vi b)
{
    return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
}

static inline int32_t most_of(vi v)
{
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128((__m256i)v),
                                       _mm256_extracti128_si256((__m256i)v, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}

static inline int32_t sum_of(vi v)
{
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128((__m256i)v),
                                       _mm256_extracti128_si256((__m256i)v, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}

static inline vf larger(vf a, vf b)
{
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
}

static inline float largest_of(vf v)
{
    const __m128 four =
        _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

static inline void low_bytes(const vi v[4], int8_t *q)
{
    const __m256i low = _mm256_set1_epi32(255);
    __m256i w[4];
    for (int i = 0; i < 4; i++)
        w[i] = _mm256_and_si256((__m256i)v[i], low);
    const __m256i bytes =
        _mm256_packus_epi16(_mm256_packus_epi32(w[0], w[1]), _mm256_packus_epi32(w[2], w[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *)(void *)q, _mm256_permutevar8x32_epi32(bytes, order));
}

#include "lanes.h"

static inline __m256i quants(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

static inline __m256i four(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, 4);
    return _mm256_set1_epi32(v);
}

static void matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    if (!common_matmul(m, first, count))
        qe_avx2_products(m, first, count);
}

static void matmul_vnni(const qe_matmul *m, uint32_t first, uint32_t count)
{
    if (!common_matmul(m, first, count))
        qe_avxvnni_products(m, first, count);
}

static inline void score_tiles(const uint8_t *k, uint32_t tiles, uint32_t head_size,
                               const qe_act *q, uint32_t heads, float *scores, size_t stride,
                               qe_scores *tile_scores)
{
    if (head_size % 32) {
        qe_portable_score_q8(k, tiles, head_size, q, heads, scores, stride);
        return;
    }
    for (uint32_t tile = 0; tile < tiles; tile++, k += qe_key_tile_bytes(head_size))
        tile_scores(k, head_size / 32, q, heads, scores + tile * 16, stride);
}

static void score_q8(const uint8_t *k, uint32_t tiles, uint32_t head_size, const qe_act *q,
                     uint32_t heads, float *scores, size_t stride)
{
    score_tiles(k, tiles, head_size, q, heads, scores, stride, qe_avx2_scores);
}

static void score_q8_vnni(const uint8_t *k, uint32_t tiles, uint32_t head_size, const qe_act *q,
                          uint32_t heads, float *scores, size_t stride)
{
    score_tiles(k, tiles, head_size, q, heads, scores, stride, qe_avxvnni_scores);
}

/* Weights are never negative, so they are the unsigned side; a lane owns a value. */
static void mix_head(const uint8_t *values, uint32_t tiles, uint32_t head_size,
                     const int8_t *uq, const float *du, float *out)
{
    const size_t tile_bytes = qe_value_tile_bytes(head_size), step = (size_t)head_size * 4;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 acc[4];
    for (int k = 0; k < 4; k++)
        acc[k] = _mm256_loadu_ps(out + 8 * k);
    for (uint32_t tile = 0; tile < tiles; tile++, values += tile_bytes) {
        __m256i isum[4];
        for (int k = 0; k < 4; k++)
            isum[k] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++) {
            const __m256i u = four(uq + tile * 32 + 4 * g);
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                const __m256i pair =
                    _mm256_maddubs_epi16(u, quants(values + (size_t)g * step + 32 * k));
                isum[k] = _mm256_add_epi32(isum[k], _mm256_madd_epi16(pair, ones));
            }
        }
        const __m256 d = _mm256_set1_ps(du[tile]);
        for (int k = 0; k < 4; k++)
            acc[k] = _mm256_add_ps(acc[k], _mm256_mul_ps(d, _mm256_cvtepi32_ps(isum[k])));
    }
    for (int k = 0; k < 4; k++)
        _mm256_storeu_ps(out + 8 * k, acc[k]);
}

static void mix_q8(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                   uint32_t width, uint32_t heads, const int8_t *uq, const float *du,
                   size_t stride, float *out, size_t out_stride)
{
    if (head_size % 32) {
        qe_portable_mix_q8(v, tiles, head_size, c, width, heads, uq, du, stride, out,
                           out_stride);
        return;
    }
    for (uint32_t h = 0; h < heads; h++)
        mix_head(v + head_size / 32 * 64 + c * 128, tiles, head_size, uq + h * stride,
                 du + h * (stride / 32), out + h * out_stride);
}

#define ENTRIES                                                                                \
    .quantize = quantize, .rmsnorm = rmsnorm, .silu_mul = silu_mul, .softmax = softmax,        \
    .weigh_q8 = weigh_q8, .mix_q8 = mix_q8, .score_f16 = score_f16, .mix_f16 = mix_f16,        \
    .score_f32 = score_f32, .mix_f32 = mix_f32, .weights = weights, .order = order,            \
    .survey = survey, .pick = pick, .first_largest = first_largest

const qe_kernels qe_avx2 = {.name = "avx2", .matmul = matmul, .score_q8 = score_q8, ENTRIES};
const qe_kernels qe_avxvnni = {
    .name = "avxvnni", .matmul = matmul_vnni, .score_q8 = score_q8_vnni, ENTRIES};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int qe_no_avx2;
#endif
