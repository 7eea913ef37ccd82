/* soft.h - float products and sums in integers, for processors without a float unit and with
 * 32-bit products only (thumb.c). They round as IEEE 754 says, to nearest, ties to even;
 * whatever is not a normal number is left to the compiler's own routines, which are right and
 * slow. Floats are passed as their bits. */
#ifndef QE_SOFT_H
#define QE_SOFT_H

#include "numeric.h"

#ifndef SOFT_MUL_ELSE /* what does the rest */
#define SOFT_MUL_ELSE(a, b) ((a) * (b))
#define SOFT_ADD_ELSE(a, b) ((a) + (b))
#define SOFT_DIV_ELSE(a, b) ((a) / (b))
#endif

enum { SOFT_ONE = 0x800000, SOFT_FRACTION = 0x7FFFFF };

static inline uint32_t soft_exponent(uint32_t bits)
{
    return bits >> 23 & 255;
}

/* Rounds a mantissa of 24 + extra bits, whose top bit is set, and puts the number together. */
static inline uint32_t soft_pack(uint32_t sign, uint32_t exponent, uint32_t mantissa,
                                 uint32_t extra)
{
    const uint32_t half = 1u << (extra - 1), rest = mantissa & (2 * half - 1);
    uint32_t kept = mantissa >> extra;
    kept += rest > half || (rest == half && (kept & 1));
    return sign | ((exponent << 23) + (kept - SOFT_ONE)); /* a carry goes to the exponent */
}

/* half * x. */
static inline uint32_t soft_mul_half(uint16_t half, uint32_t x)
{
    const uint32_t size = half & 0x7FFFu, e = (size >> 10) + soft_exponent(x) - 15;
    if (size < 0x400 || size >= 0x7C00 || soft_exponent(x) - 1 >= 254 || e - 1 >= 252)
        return qe_bits(SOFT_MUL_ELSE(qe_half_to_float(half), qe_float(x)));
    /* 11 and 24 bits; the product's upper part, and its 12 last bits as one */
    const uint32_t a = (size & 0x3FF) | 0x400, b = (x & SOFT_FRACTION) | SOFT_ONE;
    const uint32_t low = a * (b & 0xFFF);
    uint32_t m = a * (b >> 12) + (low >> 12);             /* 2^21 .. 2^23 */
    m = m << 6 | (low >> 6 & 0x3F) | ((low & 0x3F) != 0); /* 28 or 29 bits */
    const uint32_t sign = ((uint32_t)half << 16 ^ x) & 0x80000000u;
    if (m >> 28)
        return soft_pack(sign, e + 1, m, 5);
    return soft_pack(sign, e, m, 4);
}

/* x * (float)n, |n| < 2^28. */
static inline uint32_t soft_mul_int(uint32_t x, int32_t n)
{
    uint32_t size = n < 0 ? 0u - (uint32_t)n : (uint32_t)n, e = soft_exponent(x) + 24;
    if (!n || e - 25 >= 226)
        return qe_bits(SOFT_MUL_ELSE(qe_float(x), (float)n));
    if (size >> 24) { /* n itself is rounded */
        const uint32_t extra = size >> 27 ? 4 : size >> 26 ? 3 : size >> 25 ? 2 : 1;
        const uint32_t odd = size >> extra & 1;
        size = (size + (1u << (extra - 1)) - 1 + odd) >> extra;
        e += extra;
        if (size >> 24) {
            size >>= 1;
            e++;
        }
    } else {
        if (!(size >> 16)) { /* so that the top bit of 24 is set */
            size <<= 8;
            e -= 8;
        }
        if (!(size >> 20)) {
            size <<= 4;
            e -= 4;
        }
        while (!(size >> 23)) {
            size <<= 1;
            e--;
        }
    }
    const uint32_t b = (x & SOFT_FRACTION) | SOFT_ONE, low = (size & 0xFFFF) * (b & 0xFFFF);
    uint32_t m = ((size >> 16) * (b >> 16) << 16) + (size >> 16) * (b & 0xFFFF) +
                 (size & 0xFFFF) * (b >> 16) + (low >> 16); /* 2^30 .. 2^32 */
    uint32_t rest = low << 16;
    if (!(m >> 31)) {
        m = m << 1 | rest >> 31;
        rest <<= 1;
        e--;
    }
    m |= rest != 0;
    return soft_pack((x ^ (uint32_t)n) & 0x80000000u, e, m, 8);
}

/* a * b. */
static inline uint32_t soft_mul(uint32_t a, uint32_t b)
{
    const uint32_t e = soft_exponent(a) + soft_exponent(b) - 127;
    if (soft_exponent(a) - 1 >= 254 || soft_exponent(b) - 1 >= 254 || e - 1 >= 252)
        return qe_bits(SOFT_MUL_ELSE(qe_float(a), qe_float(b)));
    const uint32_t x = (a & SOFT_FRACTION) | SOFT_ONE, y = (b & SOFT_FRACTION) | SOFT_ONE;
    const uint32_t low = (x & 0xFFF) * (y & 0xFFF);
    const uint32_t middle = (x >> 12) * (y & 0xFFF) + (x & 0xFFF) * (y >> 12) + (low >> 12);
    uint32_t m = ((x >> 12) * (y >> 12) << 4) + (middle >> 8); /* 2^26 .. 2^28 */
    m |= (middle & 0xFF) || (low & 0xFFF);
    if (m >> 27)
        return soft_pack((a ^ b) & 0x80000000u, e + 1, m, 4);
    return soft_pack((a ^ b) & 0x80000000u, e, m, 3);
}

/* a / b. */
static inline uint32_t soft_div(uint32_t a, uint32_t b)
{
    uint32_t e = soft_exponent(a) - soft_exponent(b) + 127;
    if (soft_exponent(a) - 1 >= 254 || soft_exponent(b) - 1 >= 254 || e - 2 >= 251)
        return qe_bits(SOFT_DIV_ELSE(qe_float(a), qe_float(b)));
    uint32_t rest = (a & SOFT_FRACTION) | SOFT_ONE, m = 0;
    const uint32_t by = (b & SOFT_FRACTION) | SOFT_ONE;
    if (rest < by) {
        rest <<= 1;
        e--;
    }
    for (int bit = 0; bit < 26; bit++) {
        m <<= 1;
        if (rest >= by) {
            rest -= by;
            m |= 1;
        }
        rest <<= 1;
    }
    return soft_pack((a ^ b) & 0x80000000u, e, m << 1 | (rest != 0), 3);
}

/* a + b. */
static inline uint32_t soft_add(uint32_t a, uint32_t b)
{
    if (a << 1 < b << 1) {
        const uint32_t swapped = a;
        a = b;
        b = swapped;
    }
    uint32_t e = soft_exponent(a);
    const uint32_t apart = e - soft_exponent(b);
    if (!(b << 1) && e - 1 < 254)
        return a;
    if (e - 40 >= 214 || soft_exponent(b) < 1) /* so that nothing below can be subnormal */
        return qe_bits(SOFT_ADD_ELSE(qe_float(a), qe_float(b)));
    uint32_t m = ((a & SOFT_FRACTION) | SOFT_ONE) << 6, n = ((b & SOFT_FRACTION) | SOFT_ONE)
                                                            << 6;
    if (apart >= 30)
        n = 1; /* only that it is there matters */
    else if (apart)
        n = n >> apart | (n << (32 - apart) != 0);
    if ((a ^ b) >> 31) {
        m -= n;
        if (!m)
            return 0;
        while (!(m >> 29)) {
            m <<= 1;
            e--;
        }
    } else {
        m += n;
        if (m >> 30)
            return soft_pack(a & 0x80000000u, e + 1, m, 7);
    }
    return soft_pack(a & 0x80000000u, e, m, 6);
}

#endif
