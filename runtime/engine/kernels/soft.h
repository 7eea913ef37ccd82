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

#ifndef SOFT_ARMV7 /* which has products of 64 bits and counts leading zeros */
#if defined(__ARM_ARCH) && __ARM_ARCH >= 7
#define SOFT_ARMV7 1
#else
#define SOFT_ARMV7 0
#endif
#endif

enum { SOFT_ONE = 0x800000, SOFT_FRACTION = 0x7FFFFF };

static inline uint32_t soft_exponent(uint32_t bits)
{
    return bits << 1 >> 24;
}

/* Rounds a mantissa of 24 + extra bits, at most 31, whose top bit is set, and puts the number
 * together. Of head the lowest 9 bits count: sign and exponent. */
static inline uint32_t soft_pack(uint32_t head, uint32_t mantissa, uint32_t extra)
{
    const uint32_t odd = mantissa >> extra & 1,
                   kept = (mantissa + odd + (1u << (extra - 1)) - 1) >> extra;
    return ((head - 1) << 23) + kept; /* a carry goes to the exponent */
}

/* Shifts m, which is not 0, up until its top bit is bit `top`. */
static inline void soft_raise(uint32_t *m, uint32_t *head, uint32_t top)
{
#if SOFT_ARMV7
    const uint32_t by = top - 31 + (uint32_t)__builtin_clz(*m);
    *m <<= by;
    *head -= by;
#else
    for (; !(*m >> top); --*head)
        *m <<= 1;
#endif
}

/* half * x. */
static inline uint32_t soft_mul_half(uint16_t half, uint32_t x)
{
    const uint32_t size = half & 0x7FFFu;
    if (size - 0x400 >= 0x7800 || soft_exponent(x) - 16 >= 215)
        return qe_bits(SOFT_MUL_ELSE(qe_half_to_float(half), qe_float(x)));
    /* 11 and 24 bits; the product's upper part, and its last bits as one */
    const uint32_t a = (size & 0x3FF) | 0x400, low = a * (x & 0xFFFF);
    uint32_t m = (a * ((x >> 16 & 0x7F) | 0x80) << 12) + (low >> 4); /* 2^29 .. 2^31 */
    uint32_t head = (x >> 23) + (size >> 10) - 15;
    m |= (low & 15) != 0;
    head ^= (uint32_t)half >> 15 << 8;
    if (m >> 30)
        return soft_pack(head + 1, m, 7);
    return soft_pack(head, m, 6);
}

/* n of 25 to 28 bits rounded to 24, as floats are; how many bits went. */
static inline uint32_t soft_round_int(uint32_t *n)
{
    uint32_t extra = 1;
    while (*n >> extra >> 24)
        extra++;
    *n = (*n + (*n >> extra & 1) + (1u << (extra - 1)) - 1) >> extra;
    return extra;
}

/* The upper 32 of the 48 bits of a * b, and whether any below them are set as the last. */
static inline uint32_t soft_upper(uint32_t a, uint32_t b)
{
#if SOFT_ARMV7
    const uint64_t all = (uint64_t)a * b;
    return (uint32_t)(all >> 16) | ((uint32_t)all << 16 != 0);
#else
    const uint32_t low = (a & 0xFFFF) * (b & 0xFFFF);
    uint32_t m = (low >> 16) + (a & 0xFFFF) * (b >> 16);
    m += (a >> 16) * (b & 0xFFFF) + ((a >> 16) * (b >> 16) << 16);
    return m | (low << 16 != 0);
#endif
}

/* x * (float)n, |n| < 2^28. */
static inline uint32_t soft_mul_int(uint32_t x, int32_t n)
{
    uint32_t head = (x >> 23) + 24, size = (uint32_t)n;
    if (!n || soft_exponent(x) - 1 >= 226)
        return qe_bits(SOFT_MUL_ELSE(qe_float(x), (float)n));
    if (n < 0) {
        size = 0u - size;
        head ^= 0x100;
    }
    if (size >> 24)
        head += soft_round_int(&size); /* which may be 2^24 now */
    if (!(size >> 12)) {
        size <<= 12;
        head -= 12;
    }
    if (!(size >> 18)) {
        size <<= 6;
        head -= 6;
    }
    if (!SOFT_ARMV7 && !(size >> 21)) { /* three times round the loop below */
        size <<= 3;
        head -= 3;
    }
    uint32_t m = soft_upper(size, (x & SOFT_FRACTION) | SOFT_ONE); /* 26 to 32 bits */
    if (m >> 31) {
        m = m >> 1 | (m & 1);
    } else {
        head--;
        soft_raise(&m, &head, 30);
    }
    return soft_pack(head, m, 7);
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
    const uint32_t head = e + ((a ^ b) >> 31 << 8);
    if (m >> 27)
        return soft_pack(head + 1, m, 4);
    return soft_pack(head, m, 3);
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
    return soft_pack(e + ((a ^ b) >> 31 << 8), m << 1 | (rest != 0), 3);
}

/* a + b. */
static inline uint32_t soft_add(uint32_t a, uint32_t b)
{
    if (a << 1 < b << 1) {
        const uint32_t swapped = a;
        a = b;
        b = swapped;
    }
    const uint32_t apart = soft_exponent(a) - soft_exponent(b);
    if (soft_exponent(b) < 40 || soft_exponent(a) >= 254) { /* what is below may be subnormal */
        if (!(b << 1) && soft_exponent(a) - 1 < 254)
            return a;
        return qe_bits(SOFT_ADD_ELSE(qe_float(a), qe_float(b)));
    }
    uint32_t n = (b << 8 | 0x80000000u) >> 2;
    if (apart >= 30)
        n = 1; /* only that it is there matters */
    else
        n = n >> apart | (n << 1 << (31 - apart) != 0);
    uint32_t m = (a << 8 | 0x80000000u) >> 2, head = a >> 23;
    if ((a ^ b) >> 31) {
        m -= n;
        if (!m)
            return 0;
        soft_raise(&m, &head, 29);
    } else {
        m += n;
        if (m >> 30)
            return soft_pack(head + 1, m, 7);
    }
    return soft_pack(head, m, 6);
}

#endif
