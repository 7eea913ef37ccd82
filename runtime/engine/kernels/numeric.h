/* numeric.h - the scalar operations of SPEC 2.1, 2.3 and 2.6, each total and the same on every
 * machine. Not a maths library: only what the forward pass and the sampler need. */
#ifndef QE_NUMERIC_H
#define QE_NUMERIC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error                                                                                         \
    "qedge: -ffast-math changes results; build with -ffp-contract=off -fno-math-errno instead"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16
#error                                                                                         \
    "qedge: floats must be evaluated as floats (x87 is not supported: use -msse2 -mfpmath=sse)"
#endif

#define QE_EXP_LIMIT 44.3614196777f /* 64 ln 2 */
#define QE_LOG2E 0x1.715476p+0f
#define QE_LN2_HIGH 0.693359375f
#define QE_LN2_LOW (-2.12194440e-4f)
#define QE_MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer */
#define QE_MAGIC_BITS 0x4B400000
#define QE_EXP_C0 0x1.fffffcp-2f
#define QE_EXP_C1 0x1.555492p-3f
#define QE_EXP_C2 0x1.5558f2p-5f
#define QE_EXP_C3 0x1.123a2p-7f
#define QE_EXP_C4 0x1.6a23cep-10f
#define QE_TINY_BITS 0x0F800000u /* 2^-96: a block whose largest value is below it is zero */
#define QE_INF_BITS 0x7F800000u
#define QE_NAN_BITS 0x7FC00000u

static inline uint32_t qe_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static inline float qe_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static inline uint16_t qe_load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | (unsigned)p[1] << 8);
}

static inline uint32_t qe_load32(const uint8_t *p)
{
    uint32_t u;
    memcpy(&u, p, 4); /* little-endian machines only; image.c checks */
    return u;
}

static inline uint64_t qe_load64(const uint8_t *p)
{
    uint64_t u;
    memcpy(&u, p, 8);
    return u;
}

static inline void qe_store16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, 2);
}

static inline uint32_t qe_ceil(uint32_t n, uint32_t to)
{
    return (n + to - 1) / to * to;
}

static inline float qe_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7FFFu;
    if (magnitude >= 0x7C00u) /* infinity, NaN */
        return qe_float(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
    if (magnitude < 0x400u) /* subnormal: magnitude * 2^-24 is exact */
        return qe_float(sign | qe_bits((float)(int32_t)magnitude * 0x1p-24f));
    return qe_float(sign | (magnitude + 0x1C000u) << 13);
}

static inline uint16_t qe_float_to_half(float x)
{
    uint32_t u = qe_bits(x), sign = (u >> 16) & 0x8000u, m = u & 0x7FFFFFFFu;
    if (m > QE_INF_BITS)
        return (uint16_t)(sign | 0x7E00u);
    if (m >= 0x477FF000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7C00u);
    if (m < 0x38800000u) {   /* below 2^-14: units of 2^-24, rounded by adding 2^23 of them */
        if (m < 0x33000000u) /* below 2^-25 */
            return (uint16_t)sign;
        uint32_t shift = 126u - (m >> 23); /* 14 .. 24 */
        uint32_t full = (m & 0x7FFFFFu) | 0x800000u;
        uint32_t kept = full >> shift, rest = full & ((1u << shift) - 1u),
                 half = 1u << (shift - 1);
        return (uint16_t)(sign | (kept + (rest > half || (rest == half && (kept & 1u)))));
    }
    uint32_t rounded = m + 0xFFFu + ((m >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

/* SPEC 2.6. */
static inline float qe_exp(float x)
{
    if (!(x > -QE_EXP_LIMIT))
        return 0.0f;
    if (x > QE_EXP_LIMIT)
        x = QE_EXP_LIMIT;
    float t = x * QE_LOG2E + QE_MAGIC;
    float n = t - QE_MAGIC;
    float r = (x - n * QE_LN2_HIGH) - n * QE_LN2_LOW;
    float p = QE_EXP_C4 * r + QE_EXP_C3;
    p = p * r + QE_EXP_C2;
    p = p * r + QE_EXP_C1;
    p = p * r + QE_EXP_C0;
    float y = ((p * r) * r + r) + 1.0f;
    int32_t e = (int32_t)qe_bits(t) - QE_MAGIC_BITS; /* -64 .. 64 */
    return y * qe_float((uint32_t)(e + 127) << 23);
}

/* Correctly rounded square root by integers, for machines without the instruction. */
static inline float qe_sqrt_soft(float x)
{
    uint32_t u = qe_bits(x);
    if ((u << 1) == 0 || u == QE_INF_BITS)
        return x;
    if (u > QE_INF_BITS) /* NaN and negatives */
        return qe_float(QE_NAN_BITS);
    int32_t e = (int32_t)(u >> 23);
    uint32_t m = u & 0x7FFFFFu;
    if (e == 0)
        for (e = 1; !(m & 0x800000u); e--)
            m <<= 1;
    else
        m |= 0x800000u;
    e -= 127;
    if (e & 1) {
        m <<= 1;
        e -= 1;
    }
    /* root = floor(sqrt(m * 2^25)): 24 bits and one to round with. */
    uint64_t rest = 0, value = (uint64_t)m << 25;
    uint32_t root = 0;
    for (int i = 0; i < 25; i++) {
        rest = rest << 2 | ((value >> (48 - 2 * i)) & 3u);
        root <<= 1;
        if (rest > 2u * (uint64_t)root) {
            rest -= 2u * (uint64_t)root + 1u;
            root += 1;
        }
    }
    /* A tie cannot happen: a square root with 25 bits is never exact. */
    uint32_t mantissa = (root >> 1) + (root & 1u);
    return qe_float(((uint32_t)(e / 2 + 127) << 23) + (mantissa - 0x800000u));
}

static inline float qe_sqrt(float x)
{
#if defined(__SSE2__) || defined(__aarch64__) || (defined(__ARM_FP) && (__ARM_FP & 4))
    return __builtin_sqrtf(x); /* one instruction: -fno-math-errno */
#else
    return qe_sqrt_soft(x);
#endif
}

/* Splits the activation block rule of SPEC 2.3: from the largest |x| as bits to (d, r); returns
 * 0 when every q is 0. */
static inline int qe_block_scale(uint32_t amax_bits, float *d, float *r)
{
    *r = 0.0f;
    if (amax_bits < QE_TINY_BITS) {
        *d = 0.0f;
        return 0;
    }
    if (amax_bits >= QE_INF_BITS) {
        *d = qe_float(QE_NAN_BITS);
        return 0;
    }
    *d = qe_float(amax_bits) / 127.0f;
    *r = 127.0f / qe_float(amax_bits);
    return 1;
}

static inline int32_t qe_round(float x) /* |x| < 2^22 */
{
    return (int32_t)qe_bits(x + QE_MAGIC) - QE_MAGIC_BITS;
}

#endif
