/* amx.c - products of sixteen tokens at a time by AMX: a tile of the image, 16 rows by 32
 * columns in groups of four, is an operand as it lies. Each block's exact sums are stored and
 * scaled in AVX-512, in the order of SPEC 2.5. avx512.c has the rest of the set. */
#if defined(__x86_64__) && defined(__linux__) && !defined(QE_PORTABLE_ONLY)
#include "amx.h"
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(                                                                  \
    __attribute__((                                                                            \
        target("avx512f,avx512bw,avx512dq,avx512vl,f16c,amx-tile,amx-int8" QE_EVEX512))),      \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,f16c,amx-tile,amx-int8")
#endif

enum {
    TOKENS = QE_AMX_TOKENS,
    SPAN = 24, /* blocks of columns at a time */
    PANELS = 2,
    TILES = 8 /* tiles of tokens at a time */
};

/* 16 rows of a span, as signed bytes: 16 KiB and their scales. */
typedef struct {
    _Alignas(64) int8_t w[SPAN][512];
    float d[SPAN][16];
} panel;

/* The layout of LDTILECFG's memory. Tiles 0 and 3 are sums, 1 and 4 tokens, 2 and 5 weights. */
typedef struct {
    uint8_t palette, start_row, zero[14];
    uint16_t bytes[16]; /* of a row */
    uint8_t rows[16];
} tile_config;

/* Constant, in memory whatever the compiler thinks of it: GCC 12's _tile_loadconfig says that
 * it reads 8 bytes of these 64. */
static const _Alignas(64) tile_config config = {
    .palette = 1,
    .bytes = {64, 32, 64, 64, 32, 64},
    .rows = {TOKENS, TOKENS, 8, TOKENS, TOKENS, 8},
};

static void unpack(panel *p, const uint8_t *w, int q4, uint32_t count)
{
    const __m512i low = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8);
    for (uint32_t b = 0; b < count; b++, w += q4 ? 288 : 544) {
        const __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)w);
        _mm512_store_ps(p->d[b], _mm512_cvtph_ps(half));
        for (int g = 0; g < (q4 ? 4 : 8); g++) {
            const __m512i v = _mm512_loadu_si512(w + 32 + 64 * g);
            if (!q4) {
                _mm512_store_si512(p->w[b] + 64 * g, v);
                continue;
            }
            const __m512i high = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
            _mm512_store_si512(p->w[b] + 64 * g,
                               _mm512_sub_epi8(_mm512_and_si512(v, low), eight));
            _mm512_store_si512(p->w[b] + 64 * (g + 4), _mm512_sub_epi8(high, eight));
        }
    }
}

/* acc goes on by one block: acc + (dw * dx) * isum, a lane a row. */
static inline __attribute__((always_inline)) void
add_block(__m512 acc[TOKENS], const float *dw, const float *dx, int32_t isum[TOKENS][16])
{
    const __m512 d = _mm512_load_ps(dw);
#pragma GCC unroll 16
    for (int j = 0; j < TOKENS; j++) {
        const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(dx[j]));
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(isum[j]));
        acc[j] = _mm512_add_ps(acc[j], _mm512_mul_ps(scale, sum));
    }
}

/* 16 rows by 16 tokens over `count` blocks: q is the first token's first block, the others
 * `stride` bytes apart, dx their scales by blocks. Sums go on from out where goes_on is 1. A
 * block is scaled while the next one is multiplied. */
static void multiply(const panel *p, const int8_t *q, size_t stride, const float *dx,
                     uint32_t count, float *out, size_t out_stride, int goes_on)
{
    _Alignas(64) int32_t isum[2][TOKENS][16];
    __m512 acc[TOKENS];
    __asm__ volatile("" ::: "memory"); /* GCC 12's tile loads do not say that they read */
    for (int j = 0; j < TOKENS; j++)
        acc[j] = goes_on ? _mm512_loadu_ps(out + (size_t)j * out_stride) : _mm512_setzero_ps();
    for (uint32_t b = 0; b < count; b++) {
        if (b % 2 == 0) {
            _tile_zero(0);
            _tile_loadd(1, q + 32 * b, stride);
            _tile_loadd(2, p->w[b], 64);
            _tile_dpbssd(0, 1, 2);
            _tile_stored(0, isum[0], 64);
        } else {
            _tile_zero(3);
            _tile_loadd(4, q + 32 * b, stride);
            _tile_loadd(5, p->w[b], 64);
            _tile_dpbssd(3, 4, 5);
            _tile_stored(3, isum[1], 64);
        }
        if (b)
            add_block(acc, p->d[b - 1], dx + (b - 1) * TOKENS, isum[(b - 1) % 2]);
    }
    add_block(acc, p->d[count - 1], dx + (count - 1) * TOKENS, isum[(count - 1) % 2]);
    for (int j = 0; j < TOKENS; j++)
        _mm512_storeu_ps(out + (size_t)j * out_stride, acc[j]);
}

/* The scales of `tiles` tiles of tokens, a span of blocks from `first` on, by tile and block.
 */
static void gather_scales(float dx[][SPAN][TOKENS], const qe_act *act, size_t token,
                          uint32_t tiles, uint32_t first, uint32_t count)
{
    const size_t row = act->stride / 32;
    for (uint32_t tile = 0; tile < tiles; tile++)
        for (uint32_t j = 0; j < TOKENS; j++) {
            const float *d = act->d + (token + tile * TOKENS + j) * row + first;
            for (uint32_t b = 0; b < count; b++)
                dx[tile][b][j] = d[b];
        }
}

/* The panels of a few groups stay in the first cache with a tile's tokens. */
void qe_amx_products(const qe_matmul *m, uint32_t first, uint32_t count)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32, all = m->tokens / TOKENS;
    const uint32_t spans = (blocks + SPAN - 1) / SPAN, span = (blocks + spans - 1) / spans;
    const int q4 = m->type == QE_Q4_0;
    const size_t bytes = q4 ? 288 : 544, stride = m->act.stride;
    _Alignas(64) float dx[TILES][SPAN][TOKENS];
    panel p[PANELS];
    _tile_loadconfig(&config);
    for (uint32_t from = 0; from < all; from += TILES) {
        const uint32_t tiles = all - from < TILES ? all - from : TILES;
        for (uint32_t b = 0; b < blocks; b += span) {
            const uint32_t now = blocks - b < span ? blocks - b : span;
            gather_scales(dx, &m->act, from * TOKENS, tiles, b, now);
            for (uint32_t group = 0; group < count; group += PANELS) {
                const uint32_t panels = count - group < PANELS ? count - group : PANELS;
                for (uint32_t i = 0; i < panels; i++)
                    unpack(&p[i], m->w + ((size_t)(first + group + i) * blocks + b) * bytes, q4,
                           now);
                for (uint32_t tile = 0; tile < tiles; tile++) {
                    const size_t t = (size_t)(from + tile) * TOKENS;
                    for (uint32_t i = 0; i < panels; i++)
                        multiply(&p[i], m->act.q + t * stride + (size_t)b * 32, stride,
                                 dx[tile][0], now,
                                 m->out + t * m->out_stride + (first + group + i) * 16,
                                 m->out_stride, b > 0);
                }
            }
        }
    }
    _tile_release();
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int qe_no_amx;
#endif
