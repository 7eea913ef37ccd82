/* ed25519.c - see ed25519.h. Numbers modulo p = 2^255 - 19 are eight words, the lowest first,
 * of any value below 2^256: 2^256 is 38 modulo p. Points are in extended coordinates, added by
 * formulas that hold for any two of them (RFC 8032, 5.1.4). */
#include "ed25519.h"

#include <string.h>

#include "sha512.h"

typedef uint32_t number[8];
typedef struct {
    number x, y, z, t;
} point;

static const number PRIME = {0xFFFFFFED, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF,
                             0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0x7FFFFFFF};
static const number ORDER = {0x5CF5D3ED, 0x5812631A, 0xA2F79CD6, 0x14DEF9DE,
                             0x00000000, 0x00000000, 0x00000000, 0x10000000};
static const number CURVE_D = {0x135978A3, 0x75EB4DCA, 0x4141D8AB, 0x00700A4D,
                               0x7779E898, 0x8CC74079, 0x2B6FFE73, 0x52036CEE};
static const number CURVE_2D = {0x26B2F159, 0xEBD69B94, 0x8283B156, 0x00E0149A,
                                0xEEF3D130, 0x198E80F2, 0x56DFFCE7, 0x2406D9DC};
static const number ROOT_OF_MINUS_1 = {0x4A0EA0B0, 0xC4EE1B27, 0xAD2FE478, 0x2F431806,
                                       0x3DFBD7A7, 0x2B4D0099, 0x4FC1DF0B, 0x2B832480};
static const point BASE = {
    {0x8F25D51A, 0xC9562D60, 0x9525A7B2, 0x692CC760, 0xFDD6DC5C, 0xC0A4E231, 0xCD6E53FE,
     0x216936D3},
    {0x66666658, 0x66666666, 0x66666666, 0x66666666, 0x66666666, 0x66666666, 0x66666666,
     0x66666666},
    {1},
    {0xA5B7DDA3, 0x6DDE8AB3, 0x775152F5, 0x20F09F80, 0x64ABE37D, 0x66EA4E8E, 0xD78B7665,
     0x67875F0F},
};

/* a + b, or a - b for an inverted b and carry 1; returns the carry. */
static uint32_t add_words(number r, const number a, const number b, uint32_t invert)
{
    uint64_t sum = invert & 1;
    for (int i = 0; i < 8; i++) {
        sum += (uint64_t)a[i] + (b[i] ^ invert);
        r[i] = (uint32_t)sum;
        sum >>= 32;
    }
    return (uint32_t)sum;
}

/* Adds 38 times what was carried out at 2^256. */
static void fold(number r, uint64_t carry)
{
    while (carry) {
        carry *= 38;
        for (int i = 0; i < 8; i++) {
            /* cppcheck-suppress uninitvar; the other argument's making writes it */
            carry += r[i];
            r[i] = (uint32_t)carry;
            carry >>= 32;
        }
    }
}

static void add(number r, const number a, const number b)
{
    fold(r, add_words(r, a, b, 0));
}

static void subtract(number r, const number a, const number b)
{
    static const number fold_down = {38};
    uint32_t carry = add_words(r, a, b, ~0u);
    while (!carry) /* 2^256 was borrowed: take 38 off instead */
        carry = add_words(r, r, fold_down, ~0u);
}

static void multiply(number r, const number a, const number b)
{
    uint32_t wide[16] = {0};
    for (int i = 0; i < 8; i++) {
        uint64_t carry = 0;
        for (int j = 0; j < 8; j++) {
            carry += (uint64_t)a[i] * b[j] + wide[i + j];
            wide[i + j] = (uint32_t)carry;
            carry >>= 32;
        }
        wide[i + 8] = (uint32_t)carry;
    }
    uint64_t carry = 0;
    for (int i = 0; i < 8; i++) {
        carry += (uint64_t)wide[i + 8] * 38 + wide[i];
        r[i] = (uint32_t)carry;
        carry >>= 32;
    }
    fold(r, carry);
}

/* Whether a < b, as plain numbers. */
static int is_less(const number a, const number b)
{
    for (int i = 7; i >= 0; i--)
        if (a[i] != b[i])
            return a[i] < b[i];
    return 0;
}

/* The one value below p. */
static void settle(number r)
{
    while (!is_less(r, PRIME))
        add_words(r, r, PRIME, ~0u);
}

static int is_equal(const number a, const number b)
{
    number x, y;
    memcpy(x, a, sizeof x);
    memcpy(y, b, sizeof y);
    settle(x);
    settle(y);
    return memcmp(x, y, sizeof x) == 0;
}

/* a^(2^bits - 1 - without), where `without` has a few bits: the two exponents that are needed.
 */
static void power(number r, const number a, int bits, uint32_t without)
{
    number base, found;
    memcpy(base, a, sizeof base);
    memcpy(found, a, sizeof found);
    for (int i = bits - 2; i >= 0; i--) {
        multiply(found, found, found);
        if (i >= 32 || !(without >> i & 1))
            multiply(found, found, base);
    }
    memcpy(r, found, sizeof found);
}

static void invert(number r, const number a)
{
    power(r, a, 255, 20); /* p - 2 = 2^255 - 1 - 20 */
}

static void add_points(point *r, const point *p, const point *q)
{
    number a, b, c, d, e, f, g, h;
    subtract(a, p->y, p->x);
    subtract(b, q->y, q->x);
    multiply(a, a, b);
    add(b, p->y, p->x);
    add(c, q->y, q->x);
    multiply(b, b, c);
    multiply(c, p->t, q->t);
    multiply(c, c, CURVE_2D);
    multiply(d, p->z, q->z);
    add(d, d, d);
    subtract(e, b, a);
    subtract(f, d, c);
    add(g, d, c);
    add(h, b, a);
    multiply(r->x, e, f);
    multiply(r->y, g, h);
    multiply(r->z, f, g);
    multiply(r->t, e, h);
}

static void load(number r, const uint8_t bytes[32])
{
    for (int i = 0; i < 8; i++)
        r[i] = bytes[4 * i] | (uint32_t)bytes[4 * i + 1] << 8 |
               (uint32_t)bytes[4 * i + 2] << 16 | (uint32_t)bytes[4 * i + 3] << 24;
}

/* The point that 32 bytes stand for, negated; 0 when there is none (RFC 8032, 5.1.3). */
static int load_negated(point *p, const uint8_t bytes[32])
{
    static const number one = {1}, zero = {0};
    number u, v, v3, x2;
    load(p->y, bytes);
    const uint32_t sign = p->y[7] >> 31;
    p->y[7] &= 0x7FFFFFFF;
    if (!is_less(p->y, PRIME))
        return 0;
    multiply(u, p->y, p->y);
    multiply(v, u, CURVE_D);
    subtract(u, u, one);
    add(v, v, one);
    multiply(v3, v, v);
    multiply(v3, v3, v); /* x = u v^3 (u v^7)^((p - 5) / 8) */
    multiply(p->x, v3, v3);
    multiply(p->x, p->x, v);
    multiply(p->x, p->x, u);
    power(p->x, p->x, 252, 2); /* 2^252 - 1 - 2 */
    multiply(p->x, p->x, v3);
    multiply(p->x, p->x, u);
    multiply(x2, p->x, p->x);
    multiply(x2, x2, v);
    if (!is_equal(x2, u)) {
        multiply(p->x, p->x, ROOT_OF_MINUS_1);
        multiply(x2, p->x, p->x);
        multiply(x2, x2, v);
        if (!is_equal(x2, u))
            return 0;
    }
    settle(p->x);
    if (is_equal(p->x, zero) && sign)
        return 0;
    if ((p->x[0] & 1) == sign)
        subtract(p->x, zero, p->x);
    memcpy(p->z, one, sizeof one);
    multiply(p->t, p->x, p->y);
    return 1;
}

static void store(uint8_t bytes[32], const point *p)
{
    number z, x, y;
    invert(z, p->z);
    multiply(x, p->x, z);
    multiply(y, p->y, z);
    settle(x);
    settle(y);
    y[7] |= x[0] << 31;
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)(y[i / 4] >> i % 4 * 8);
}

/* 64 bytes, the lowest first, modulo the group's order: bit by bit. */
static void reduce(number r, const uint8_t bytes[64])
{
    memset(r, 0, sizeof(number));
    for (int i = 511; i >= 0; i--) {
        for (int n = 7; n > 0; n--)
            r[n] = r[n] << 1 | r[n - 1] >> 31;
        r[0] = r[0] << 1 | (bytes[i / 8] >> i % 8 & 1);
        if (!is_less(r, ORDER))
            add_words(r, r, ORDER, ~0u);
    }
}

int qe_ed25519_verify(const uint8_t key[32], const uint8_t *message, uint32_t bytes,
                      const uint8_t signature[64])
{
    uint8_t digest[64], found[32];
    number s, h;
    point minus_key, both, sum = {{0}, {1}, {1}, {0}};
    load(s, signature + 32);
    if (!is_less(s, ORDER) || !load_negated(&minus_key, key))
        return 0;
    const qe_sha512_part parts[] = {{signature, 32}, {key, 32}, {message, bytes}, {NULL, 0}};
    qe_sha512(parts, digest);
    reduce(h, digest);
    add_points(&both, &BASE, &minus_key);
    for (int i = 252; i >= 0; i--) { /* s BASE - h key */
        const int in_s = s[i / 32] >> i % 32 & 1, in_h = h[i / 32] >> i % 32 & 1;
        add_points(&sum, &sum, &sum);
        if (in_s || in_h)
            add_points(&sum, &sum, in_s && in_h ? &both : in_s ? &BASE : &minus_key);
    }
    store(found, &sum);
    return memcmp(found, signature, sizeof found) == 0;
}
