/* avx2_unpack.h - groups of 16 rows of any quantized type (formats.h) as AVX2 wants them: bytes
 * of 8 rows by 4 columns, and scales by rows. For avx2_products.c, inside its target pragma. */
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* A type as constants: formats.c has the same facts at run time. */
typedef struct {
    int type, bits, period, head, row_head, step;
    int wide;      /* bits of a level as it is multiplied */
    int zero;      /* point of all levels, which x's sums take off; 0: none, or by the scales */
    int is_signed; /* levels are signed bytes */
    int table;     /* they come from one */
} kind;

#define SCALED(type, bits, period, head, zero)                                                 \
    (kind){QE_##type, bits, period, head, 0, QE_STEP_SCALED, bits, zero, bits == 8, 0}
#define TABLE(type, period, head)                                                              \
    (kind){QE_##type, 4, period, head, 0, QE_STEP_SCALED, 8, 0, 1, 1}
#define OTHER(type, bits, period, head, row_head, step)                                        \
    (kind){QE_##type, bits, period, head, row_head, QE_STEP_##step, bits, 0, 0, 0}

#define KIND_Q1_0 SCALED(Q1_0, 1, 4, 2, 1) /* levels are doubled */
#define KIND_Q2_0 SCALED(Q2_0, 2, 2, 2, 1)
#define KIND_TQ2_0 SCALED(TQ2_0, 2, 8, 2, 1)
#define KIND_Q4_0 SCALED(Q4_0, 4, 1, 2, 8)
#define KIND_Q5_0 SCALED(Q5_0, 5, 1, 2, 16)
#define KIND_Q8_0 SCALED(Q8_0, 8, 1, 2, 0)
#define KIND_IQ4_NL TABLE(IQ4_NL, 1, 2)
#define KIND_IQ4_XS TABLE(IQ4_XS, 8, 8)
#define KIND_MXFP4 TABLE(MXFP4, 1, 1)
#define KIND_Q4_1 OTHER(Q4_1, 4, 1, 4, 0, AFFINE)
#define KIND_Q5_1 OTHER(Q5_1, 5, 1, 4, 0, AFFINE)
#define KIND_Q4_K OTHER(Q4_K, 4, 8, 16, 0, AFFINE)
#define KIND_Q5_K OTHER(Q5_K, 5, 8, 16, 0, AFFINE)
#define KIND_Q3_K OTHER(Q3_K, 3, 8, 14, 0, HALVES)
#define KIND_Q6_K OTHER(Q6_K, 6, 8, 18, 0, HALVES)
#define KIND_Q2_K OTHER(Q2_K, 2, 8, 20, 0, HALVES_MIN)
#define KIND_A2 OTHER(A2, 2, 1, 2, 4, ROW)
#define KIND_A3 OTHER(A3, 3, 1, 2, 4, ROW)
#define KIND_A4 OTHER(A4, 4, 1, 2, 4, ROW)
#define KIND_A5 OTHER(A5, 5, 1, 2, 4, ROW)
#define KIND_A6 OTHER(A6, 6, 1, 2, 4, ROW)

/* A block's scales. s: of the first and the second 16 columns, a row's in both of a lane's
 * int16; n: what the two sums of x are multiplied by. */
typedef struct {
    _Alignas(32) float d[16];
    float m[16];
    int16_t s[2][32], n[32];
} scales;

INLINE __m256i bytes_at(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

INLINE __m256i load_pairs(const int16_t *pairs, int half)
{
    return _mm256_load_si256((const __m256i *)(const void *)(pairs + 16 * half));
}

INLINE __m256i shifted(__m256i v, int right, int mask) /* bytes; right may be below zero */
{
    v = right > 0 ? _mm256_srli_epi16(v, right) : _mm256_slli_epi16(v, -right);
    return _mm256_and_si256(v, _mm256_set1_epi8((char)mask));
}

/* Columns 4 * g .. of rows 8 * half ..: a level, or a table's number for it. */
INLINE __m256i levels(const uint8_t *p, kind k, int g, int half)
{
    p += 32 * half;
    switch (k.bits) {
    case 8: return bytes_at(p + 64 * g);
    case 1: return shifted(bytes_at(p), g - 1, 2);
    case 2: return shifted(bytes_at(p + g / 4 * 64), g % 4 * 2, 3);
    case 3:
        return _mm256_or_si256(shifted(bytes_at(p + g / 4 * 64), g % 4 * 2, 3),
                               shifted(bytes_at(p + 128), g - 2, 4));
    }
    const __m256i low = shifted(bytes_at(p + g % 4 * 64), g < 4 ? 0 : 4, 15);
    if (k.bits == 5)
        return _mm256_or_si256(low, shifted(bytes_at(p + 256), g - 4, 16));
    if (k.bits == 6)
        return _mm256_or_si256(low, shifted(bytes_at(p + 256 + g / 4 * 64), g % 4 * 2 - 4, 48));
    if (!k.table)
        return low;
    const int8_t *table = k.type == QE_MXFP4 ? qe_mxfp4_levels : qe_iq4_levels;
    const __m128i numbers = _mm_loadu_si128((const __m128i *)(const void *)table);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(numbers), low);
}

INLINE __m128i row_bytes(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

INLINE __m128i bits_of(__m128i v, int right, int mask)
{
    return _mm_and_si128(_mm_srli_epi16(v, right), _mm_set1_epi8((char)mask));
}

INLINE void halves_to(float *to, const uint8_t *p)
{
    for (int h = 0; h < 2; h++)
        _mm256_store_ps(to + 8 * h, _mm256_cvtph_ps(row_bytes(p + 16 * h)));
}

/* to = scale * the rows' integers, exact; to = -scale * ... for a minimum. */
INLINE void times(float *to, const float *scale, __m128i integers, int sign)
{
    for (int h = 0; h < 2; h++) {
        const __m256 n = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(integers));
        const __m256 product = _mm256_mul_ps(_mm256_load_ps(scale + 8 * h), n);
        _mm256_store_ps(to + 8 * h,
                        sign < 0 ? _mm256_xor_ps(product, _mm256_set1_ps(-0.0f)) : product);
        integers = _mm_unpackhi_epi64(integers, integers);
    }
}

/* A row's integers in lanes of two int16: a in the first, b in the second. */
INLINE void pairs_to(int16_t *to, __m256i a, __m256i b)
{
    const __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
    _mm256_store_si256((__m256i *)(void *)to, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_store_si256((__m256i *)(void *)(to + 16),
                       _mm256_permute2x128_si256(low, high, 0x31));
}

/* Of Q6_K and Q3_K: signed scales of a block's halves, and zero times them. */
INLINE void half_scales(scales *s, __m128i first, __m128i second, int zero)
{
    const __m256i a = _mm256_cvtepi8_epi16(first), b = _mm256_cvtepi8_epi16(second);
    const __m256i by = _mm256_set1_epi16((short)zero);
    pairs_to(s->s[0], a, a);
    pairs_to(s->s[1], b, b);
    pairs_to(s->n, _mm256_mullo_epi16(a, by), _mm256_mullo_epi16(b, by));
}

/* The scales of block i of a period whose head is at w. */
INLINE void read_scales(scales *s, const uint8_t *w, kind k, uint32_t i)
{
    if (k.step == QE_STEP_ROW) {
        const __m256i scale = _mm256_cvtepu8_epi16(row_bytes(w));
        const __m256i zero = _mm256_cvtepu8_epi16(bits_of(row_bytes(w + 16), 0, 127));
        const __m256i up = _mm256_slli_epi16(scale, 7 - k.wide);
        const __m256i product = _mm256_mullo_epi16(scale, zero);
        pairs_to(s->s[0], up, up);
        pairs_to(s->n, product, product);
        return;
    }
    if (k.type == QE_MXFP4) {
        for (int r = 0; r < 16; r++)
            s->d[r] = qe_mxfp4_scale(w[r]);
        return;
    }
    halves_to(s->d, w);
    if (k.step == QE_STEP_AFFINE || k.step == QE_STEP_HALVES_MIN)
        halves_to(s->m, w + 32);
    if (k.type == QE_Q4_K || k.type == QE_Q5_K) {
        const __m128i a = row_bytes(w + 64 + 16 * i), b = row_bytes(w + 192 + i / 2 * 16);
        const __m128i upper =
            i % 2 ? bits_of(b, 2, 0x3C) : _mm_slli_epi16(bits_of(b, 0, 15), 2);
        times(s->d, s->d, bits_of(a, 0, 63), 1);
        times(s->m, s->m, _mm_or_si128(bits_of(a, 6, 3), upper), -1);
    }
    if (k.type == QE_IQ4_XS) {
        const __m128i low = bits_of(row_bytes(w + 32 + i / 2 * 16), i % 2 * 4, 15);
        const __m128i high = bits_of(row_bytes(w + 96 + i / 4 * 16), i % 4 * 2, 3);
        const __m128i all = _mm_or_si128(low, _mm_slli_epi16(high, 4));
        times(s->d, s->d, _mm_sub_epi8(all, _mm_set1_epi8(32)), 1);
    }
    if (k.type == QE_Q6_K)
        half_scales(s, row_bytes(w + 32 + 32 * i), row_bytes(w + 48 + 32 * i), 32);
    if (k.type == QE_Q3_K) {
        const __m128i low = row_bytes(w + 32 + 16 * i),
                      high = bits_of(row_bytes(w + 160 + i / 2 * 16), i % 2 * 4, 15);
        const __m128i middle = _mm_set1_epi8(32);
        const __m128i first = _mm_or_si128(bits_of(low, 0, 15),
                                           _mm_slli_epi16(bits_of(high, 0, 3), 4)),
                      second = _mm_or_si128(bits_of(low, 4, 15),
                                            _mm_slli_epi16(bits_of(high, 2, 3), 4));
        half_scales(s, _mm_sub_epi8(first, middle), _mm_sub_epi8(second, middle), 4);
    }
    if (k.type == QE_Q2_K) {
        const __m128i a = row_bytes(w + 64 + 32 * i), b = row_bytes(w + 80 + 32 * i);
        half_scales(s, bits_of(a, 0, 15), bits_of(b, 0, 15), 0);
        pairs_to(s->n, _mm256_cvtepu8_epi16(bits_of(a, 4, 15)),
                 _mm256_cvtepu8_epi16(bits_of(b, 4, 15)));
    }
}
