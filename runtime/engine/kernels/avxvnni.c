/* avxvnni.c - matrix products and scores for AVX-VNNI (Alder Lake-N, Arrow Lake, Zen 5): the
 * 256 bits of avx2.c, which has the rest of the set. */
#if defined(__x86_64__) && !defined(QE_PORTABLE_ONLY)
#include "avx2_products.h"

#if defined(QE_EMULATE_VNNI) /* the same text on any x86-64-v3: see vnni_emulated.h */
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#elif defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c,avxvnni")
#endif

#include "avx2_unpack.h"

#define VB 32
#define GROUPS 1
#if defined(QE_EMULATE_VNNI)
#include "vnni_emulated.h"
#else
#define dot(sum, u, s) ((vi)_mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(u), (__m256i)(s)))
#define pairs(a, b) ((vi)_mm256_madd_epi16((__m256i)(a), (__m256i)(b)))
#define lookup(table, at)                                                                      \
    ((vb)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(row_bytes((const uint8_t *)(table))), \
                             (__m256i)(at)))
#define floats_of(v) ((vf)_mm256_cvtepi32_ps((__m256i)(v)))
#define rows_of(p)                                                                             \
    ((vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))
#endif
#include "vnni_products.h"

void qe_avxvnni_products(const qe_matmul *m, uint32_t first, uint32_t count)
{
    if (!products_of(m, first, count))
        qe_portable_matmul(m, first, count);
}

void qe_avxvnni_scores(const uint8_t *k, uint32_t blocks, const qe_act *q, uint32_t heads,
                       float *scores, size_t stride)
{
    uint32_t h = 0;
    for (; h + 3 <= heads; h += 3)
        score_heads(k, blocks, q, h, 3, scores + h * stride, stride);
    for (; h < heads; h++)
        score_heads(k, blocks, q, h, 1, scores + h * stride, stride);
}

#if defined(__clang__) && !defined(QE_EMULATE_VNNI)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int qe_no_avxvnni;
#endif
