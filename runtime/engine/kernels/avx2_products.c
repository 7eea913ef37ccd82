/* avx2_products.c - matrix products of every quantized type for AVX2: 16 rows by a block of 32
 * columns at a time. A register holds 8 rows by 4 columns; products of bytes add up in int16 as
 * long as they cannot overflow (SPEC 2.3: |x| <= 127), and integer scales come in with the one
 * instruction that widens them. Many tokens share a panel of unpacked levels in the first
 * cache; a lone token unpacks in registers. Equal to portable.c. */
#if defined(__x86_64__) && !defined(QE_PORTABLE_ONLY)
#include "avx2_products.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif

#include "avx2_unpack.h"

enum {
    NT = 4,        /* tokens that share a load of the weights */
    SPAN = 24,     /* blocks of a panel: 12 KiB of levels; half as many where they are signed */
    PREFETCH = 32, /* blocks ahead, of a lone token */
};

/* 16 rows by up to SPAN blocks. A block of signed levels has their sizes behind it. */
typedef struct {
    uint8_t q[SPAN][512];
    scales s[SPAN];
} panel;

INLINE int places(kind k) /* of a block in a panel */
{
    return k.is_signed ? 2 : 1;
}

INLINE __m256i four(const int8_t *q)
{
    int32_t v;
    memcpy(&v, q, 4);
    return _mm256_set1_epi32(v);
}

/* A sum as it stands here: GCC would add up in another order, for which all products wait. */
INLINE __m256i in_order(__m256i sum)
{
    __asm__("" : "+x"(sum));
    return sum;
}

INLINE __m256i widened(__m256i sum, __m256i pairs, __m256i by, int goes_on)
{
    const __m256i more = _mm256_madd_epi16(pairs, by);
    return in_order(goes_on ? _mm256_add_epi32(sum, more) : more);
}

/* The sums of a block's products by their integer scales, less those of its zero points, of
 * `tokens` rows of x; both halves of the 16 rows share a broadcast. */
INLINE void block_sums(__m256i isum[NT][2], const uint8_t *p, kind k, int in_panel,
                       const scales *s, const int8_t *x, size_t stride, int tokens)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const int halves = k.step == QE_STEP_HALVES || k.step == QE_STEP_HALVES_MIN;
    const int most = k.is_signed ? 1 : k.wide == 6 ? 2 : k.wide == 5 || halves ? 4 : 8;
#pragma GCC unroll 8
    for (int c = 0; c < 8; c += most) {
        __m256i pairs[NT][2];
#pragma GCC unroll 8
        for (int g = c; g < c + most; g++) {
            __m256i w[2], size[2];
            for (int h = 0; h < 2; h++) {
                w[h] = levels(p, k, g, h);
                size[h] = !k.is_signed ? w[h]
                          : in_panel   ? bytes_at(p + 512 + 64 * g + 32 * h)
                                       : _mm256_abs_epi8(w[h]);
            }
#pragma GCC unroll 4
            for (int j = 0; j < tokens; j++) {
                const __m256i v = four(x + (size_t)j * stride + 4 * g);
                for (int h = 0; h < 2; h++) {
                    const __m256i product = _mm256_maddubs_epi16(
                        size[h], k.is_signed ? _mm256_sign_epi8(v, w[h]) : v);
                    if (most == 1)
                        isum[j][h] = widened(isum[j][h], product, ones, g > 0);
                    else
                        pairs[j][h] =
                            in_order(g == c ? product : _mm256_add_epi16(pairs[j][h], product));
                }
            }
        }
        for (int h = 0; h < 2 && most > 1; h++) {
            const __m256i by = halves                  ? load_pairs(s->s[c / 4], h)
                               : k.step == QE_STEP_ROW ? load_pairs(s->s[0], h)
                                                       : ones;
            for (int j = 0; j < tokens; j++)
                isum[j][h] = widened(isum[j][h], pairs[j][h], by, c > 0);
        }
    }
}

/* acc goes on by one block: SPEC 2.5. h: rows 8 * h .. 8 * h + 7. */
INLINE __m256 step(__m256 acc, kind k, const scales *s, int h, __m256i isum, float dx,
                   const int16_t *sums)
{
    const __m256 x = _mm256_set1_ps(dx), d = _mm256_load_ps(s->d + 8 * h);
    const __m256i xsum = four((const int8_t *)sums);
    if (k.step == QE_STEP_AFFINE) {
        const __m256i both = _mm256_madd_epi16(xsum, _mm256_set1_epi16(1));
        const __m256 term = _mm256_mul_ps(_mm256_load_ps(s->m + 8 * h),
                                          _mm256_mul_ps(x, _mm256_cvtepi32_ps(both)));
        return _mm256_add_ps(
            acc,
            _mm256_add_ps(_mm256_mul_ps(_mm256_mul_ps(d, x), _mm256_cvtepi32_ps(isum)), term));
    }
    if (k.step == QE_STEP_HALVES_MIN) {
        const __m256i least = _mm256_madd_epi16(xsum, load_pairs(s->n, h));
        const __m256 m = _mm256_mul_ps(_mm256_load_ps(s->m + 8 * h), x);
        return _mm256_add_ps(
            acc, _mm256_sub_ps(_mm256_mul_ps(_mm256_mul_ps(d, x), _mm256_cvtepi32_ps(isum)),
                               _mm256_mul_ps(m, _mm256_cvtepi32_ps(least))));
    }
    if (k.zero)
        isum = _mm256_sub_epi32(isum, _mm256_madd_epi16(xsum, _mm256_set1_epi16(k.zero)));
    else if (k.step == QE_STEP_HALVES || k.step == QE_STEP_ROW)
        isum = _mm256_sub_epi32(isum, _mm256_madd_epi16(xsum, load_pairs(s->n, h)));
    if (k.step != QE_STEP_ROW)
        return _mm256_add_ps(acc, _mm256_mul_ps(_mm256_mul_ps(d, x), _mm256_cvtepi32_ps(isum)));
    return _mm256_add_ps(acc, _mm256_mul_ps(x, _mm256_cvtepi32_ps(isum)));
}

/* A panel's blocks against `tokens` rows of activations. Sums go on from out unless the panel's
 * first block is 0; row scales come in behind the last. */
INLINE void multiply(const panel *p, kind k, uint32_t first, uint32_t count, const qe_act *act,
                     size_t token, int tokens, const float *row_scale, float *out,
                     size_t stride)
{
    const size_t row = act->stride / 32;
    const int8_t *q = act->q + token * act->stride + (size_t)first * 32;
    const float *d = act->d + token * row + first;
    const int16_t *s = act->s + 2 * (token * row + first);
    for (int j = 0; !first && j < tokens; j++)
        for (int h = 0; h < 2; h++)
            _mm256_storeu_ps(out + j * stride + 8 * h, _mm256_setzero_ps());
    for (uint32_t b = 0; b < count; b++, q += 32) {
        __m256i isum[NT][2];
        block_sums(isum, p->q[b * places(k)], k, 1, &p->s[b], q, act->stride, tokens);
#pragma GCC unroll 4
        for (int j = 0; j < tokens; j++) {
            float *to = out + j * stride;
            __m256 acc[2];
            for (int h = 0; h < 2; h++) /* both before a store, of which d and s might be */
                acc[h] = step(_mm256_loadu_ps(to + 8 * h), k, &p->s[b], h, isum[j][h],
                              d[j * row + b], s + 2 * (j * row + b));
            for (int h = 0; h < 2; h++)
                _mm256_storeu_ps(to + 8 * h, acc[h]);
        }
    }
    for (int j = 0; row_scale && j < tokens; j++)
        for (int h = 0; h < 2; h++) {
            float *to = out + j * stride + 8 * h;
            _mm256_storeu_ps(
                to, _mm256_mul_ps(_mm256_loadu_ps(to), _mm256_loadu_ps(row_scale + 8 * h)));
        }
}

/* 16 rows against one token, from the tiles themselves. */
INLINE void lone_token(const uint8_t *w, kind k, uint32_t blocks, const qe_act *act,
                       size_t token, float *out)
{
    const size_t bytes = 64u * k.bits, head = 16u * k.head, row = act->stride / 32;
    const int8_t *q = act->q + token * act->stride;
    const float *d = act->d + token * row;
    const int16_t *s = act->s + 2 * token * row;
    const float *row_scale = (const float *)(const void *)w;
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    w += 16 * k.row_head;
    for (uint32_t b = 0; b < blocks; w += head + k.period * bytes) {
        const uint8_t *p = w + head;
        for (uint32_t i = 0; i < (uint32_t)k.period; i++, b++, p += bytes) {
            __m256i isum[NT][2];
            scales of;
            for (size_t line = 0; line < bytes + head / k.period; line += 64)
                _mm_prefetch((const char *)p + PREFETCH * 288 + line, _MM_HINT_T0);
            read_scales(&of, w, k, i);
            block_sums(isum, p, k, 0, &of, q + 32 * b, 0, 1);
            for (int h = 0; h < 2; h++)
                acc[h] = step(acc[h], k, &of, h, isum[0][h], d[b], s + 2 * b);
        }
    }
    for (int h = 0; h < 2; h++) {
        if (k.step == QE_STEP_ROW)
            acc[h] = _mm256_mul_ps(acc[h], _mm256_loadu_ps(row_scale + 8 * h));
        _mm256_storeu_ps(out + 8 * h, acc[h]);
    }
}

INLINE void unpack(panel *p, const uint8_t *w, kind k, uint32_t first, uint32_t count)
{
    for (uint32_t b = 0; b < count; b++) {
        const uint32_t i = (first + b) % k.period;
        const uint8_t *head = w + 16 * k.row_head +
                              (first + b) / k.period * (16 * k.head + k.period * 64 * k.bits);
        const uint8_t *from = head + 16 * k.head + (size_t)i * 64 * k.bits;
        read_scales(&p->s[b], head, k, i);
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++)
            for (int h = 0; h < 2; h++) {
                uint8_t *to = p->q[b * places(k)] + 64 * g + 32 * h;
                const __m256i w = levels(from, k, g, h);
                _mm256_storeu_si256((__m256i *)(void *)to, w);
                if (k.is_signed)
                    _mm256_storeu_si256((__m256i *)(void *)(to + 512), _mm256_abs_epi8(w));
            }
    }
}

/* Many tokens, of which the panel is made once for all. */
INLINE void many_tokens(const panel *p, kind k, uint32_t first, uint32_t count,
                        const qe_matmul *m, const float *row_scale, float *out)
{
    uint32_t t = 0;
    k.bits = 8;
    k.table = 0;
    for (; t + NT <= m->tokens; t += NT)
        multiply(p, k, first, count, &m->act, t, NT, row_scale, out + t * m->out_stride,
                 m->out_stride);
    for (; t + 2 <= m->tokens; t += 2)
        multiply(p, k, first, count, &m->act, t, 2, row_scale, out + t * m->out_stride,
                 m->out_stride);
    for (; t < m->tokens; t++)
        multiply(p, k, first, count, &m->act, t, 1, row_scale, out + t * m->out_stride,
                 m->out_stride);
}

INLINE void groups(const qe_matmul *m, kind k, uint32_t first, uint32_t count)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const size_t bytes =
        16 * (k.row_head + blocks / k.period * (k.head + (size_t)k.period * 4 * k.bits));
    for (uint32_t group = first; group < first + count; group++) {
        const uint8_t *w = m->w + group * bytes;
        float *out = m->out + group * 16;
        if (m->tokens < 3) {
            for (uint32_t t = 0; t < m->tokens; t++)
                lone_token(w, k, blocks, &m->act, t, out + t * m->out_stride);
            continue;
        }
        panel p;
        const uint32_t most = SPAN / places(k), spans = (blocks + most - 1) / most,
                       span = (blocks + spans - 1) / spans;
        for (uint32_t b = 0; b < blocks; b += span) {
            const uint32_t now = blocks - b < span ? blocks - b : span;
            const int last = b + now == blocks && k.step == QE_STEP_ROW;
            unpack(&p, w, k, b, now);
            many_tokens(&p, k, b, now, m, last ? (const float *)(const void *)w : NULL, out);
        }
    }
}

void qe_avx2_products(const qe_matmul *m, uint32_t first, uint32_t count)
{
    switch (m->type) {
    case QE_Q1_0: groups(m, KIND_Q1_0, first, count); break;
    case QE_Q2_0: groups(m, KIND_Q2_0, first, count); break;
    case QE_TQ2_0: groups(m, KIND_TQ2_0, first, count); break;
    case QE_Q4_0: groups(m, KIND_Q4_0, first, count); break;
    case QE_Q5_0: groups(m, KIND_Q5_0, first, count); break;
    case QE_Q8_0: groups(m, KIND_Q8_0, first, count); break;
    case QE_IQ4_NL: groups(m, KIND_IQ4_NL, first, count); break;
    case QE_IQ4_XS: groups(m, KIND_IQ4_XS, first, count); break;
    case QE_MXFP4: groups(m, KIND_MXFP4, first, count); break;
    case QE_Q4_1: groups(m, KIND_Q4_1, first, count); break;
    case QE_Q5_1: groups(m, KIND_Q5_1, first, count); break;
    case QE_Q4_K: groups(m, KIND_Q4_K, first, count); break;
    case QE_Q5_K: groups(m, KIND_Q5_K, first, count); break;
    case QE_Q3_K: groups(m, KIND_Q3_K, first, count); break;
    case QE_Q6_K: groups(m, KIND_Q6_K, first, count); break;
    case QE_Q2_K: groups(m, KIND_Q2_K, first, count); break;
    case QE_A2: groups(m, KIND_A2, first, count); break;
    case QE_A3: groups(m, KIND_A3, first, count); break;
    case QE_A4: groups(m, KIND_A4, first, count); break;
    case QE_A5: groups(m, KIND_A5, first, count); break;
    case QE_A6: groups(m, KIND_A6, first, count); break;
    default: qe_portable_matmul(m, first, count);
    }
}

/* A key tile of whole blocks has the bytes of a q8_0 group. */
INLINE void score_heads(const uint8_t *w, uint32_t blocks, const qe_act *act, size_t head,
                        int heads, float *scores, size_t stride)
{
    const size_t row = act->stride / 32;
    const int8_t *q = act->q + head * act->stride;
    const float *d = act->d + head * row;
    __m256 acc[NT][2];
    for (int j = 0; j < heads; j++)
        acc[j][0] = acc[j][1] = _mm256_setzero_ps();
    for (uint32_t b = 0; b < blocks; b++, w += 544) {
        __m256i isum[NT][2];
        scales of;
        read_scales(&of, w, KIND_Q8_0, 0);
        block_sums(isum, w + 32, KIND_Q8_0, 0, &of, q + 32 * b, act->stride, heads);
        for (int j = 0; j < heads; j++)
            for (int h = 0; h < 2; h++)
                acc[j][h] =
                    step(acc[j][h], KIND_Q8_0, &of, h, isum[j][h], d[j * row + b], act->s);
    }
    for (int j = 0; j < heads; j++)
        for (int h = 0; h < 2; h++)
            _mm256_storeu_ps(scores + j * stride + 8 * h, acc[j][h]);
}

void qe_avx2_scores(const uint8_t *k, uint32_t blocks, const qe_act *q, uint32_t heads,
                    float *scores, size_t stride)
{
    uint32_t h = 0;
    for (; h + 3 <= heads; h += 3)
        score_heads(k, blocks, q, h, 3, scores + h * stride, stride);
    for (; h < heads; h++)
        score_heads(k, blocks, q, h, 1, scores + h * stride, stride);
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int qe_no_avx2_products;
#endif
