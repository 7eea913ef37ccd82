/* numeric_check.c - numeric.h against independent methods: halves by exact arithmetic in double
 * (and by the compiler's own type where it has one), roots by sqrtf, exp by the C library's
 * double one.
 *
 *   numeric_check [STRIDE]     distance between the bit patterns tried; 1009 unless given
 *
 * Prints one line of JSON; the digest covers the same patterns whatever the stride, so that
 * machines can be compared. It also tries + - * / themselves. Exits 1 at the first difference.
 */
#include "../../runtime/engine/kernels/numeric.h"
#include "../../runtime/engine/qedge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { DIGEST_STRIDE = 65537 };

static uint64_t compared;

static void expect(int truth, const char *what, uint32_t input, uint32_t got)
{
    compared++;
    if (truth)
        return;
    printf("numeric_check: %s: input %08x gave %08x\n", what, (unsigned)input, (unsigned)got);
    exit(1);
}

static int is_nan(uint32_t bits)
{
    return (bits & 0x7FFFFFFFu) > QE_INF_BITS;
}

static void check_widening(void)
{
    for (uint32_t h = 0; h < 65536; h++) {
        const uint32_t exponent = h >> 10 & 31, m = h & 1023;
        const uint32_t got = qe_bits(qe_half_to_float((uint16_t)h));
        if (exponent == 31) {
            const uint32_t inf = (h & 0x8000u) << 16 | QE_INF_BITS;
            expect(m ? is_nan(got) : got == inf, "half to float, not finite", h, got);
        } else {
            const double magnitude =
                exponent ? ldexp(1024.0 + m, (int)exponent - 25) : ldexp(m, -24);
            const float want = (float)(h & 0x8000u ? -magnitude : magnitude);
            expect(got == qe_bits(want), "half to float", h, got);
            expect(qe_float_to_half(want) == h, "float to half does not invert", h, got);
        }
    }
}

/* Nearest even on the grid of halves, in double, where dividing by a power of two is exact. */
static void check_narrowing(uint32_t bits)
{
    const float x = qe_float(bits);
    const uint16_t got = qe_float_to_half(x);
    if (is_nan(bits)) {
        expect((got & 0x7C00u) == 0x7C00u && (got & 0x3FFu), "NaN to half", bits, got);
        return;
    }
    const double magnitude = fabs((double)x);
    expect((uint32_t)(got >> 15) == bits >> 31, "sign of a half", bits, got);
    if (magnitude >= 65520.0) {
        expect((got & 0x7FFFu) == 0x7C00u, "overflow to half", bits, got);
        return;
    }
    int exponent = magnitude > 0 ? ilogb(magnitude) : -14;
    const double unit = ldexp(1.0, (exponent < -14 ? -14 : exponent) - 10);
    const double want = nearbyint(magnitude / unit) * unit;
    expect(fabs((double)qe_half_to_float(got)) == want, "float to half", bits, got);
#if defined(__FLT16_MANT_DIG__) && (defined(__x86_64__) || defined(__aarch64__))
    uint16_t own;
    const _Float16 narrow = (_Float16)x;
    memcpy(&own, &narrow, 2);
    expect(own == got, "float to half, by the compiler", bits, got);
#endif
}

static void check_root(uint32_t bits)
{
    const float x = qe_float(bits);
    const uint32_t want = qe_bits(sqrtf(x)), soft = qe_bits(qe_sqrt_soft(x)),
                   here = qe_bits(qe_sqrt(x));
    expect(soft == want || (is_nan(soft) && is_nan(want)), "qe_sqrt_soft", bits, soft);
    expect(here == want || (is_nan(here) && is_nan(want)), "qe_sqrt", bits, here);
}

static double worst_exp;

static void check_exp(uint32_t bits)
{
    const float x = qe_float(bits), y = qe_exp(x);
    const uint32_t got = qe_bits(y);
    if (!(x > -QE_EXP_LIMIT)) {
        expect(got == 0, "exp of NaN or below its limit is not 0", bits, got);
        return;
    }
    if (x > QE_EXP_LIMIT) {
        expect(got == qe_bits(qe_exp(QE_EXP_LIMIT)), "exp above its limit", bits, got);
        return;
    }
    const double want = exp((double)x), unit = ldexp(1.0, ilogb(want) - 23);
    const double error = fabs((double)y - want) / unit;
    worst_exp = error > worst_exp ? error : worst_exp;
    expect(error <= 1.4, "exp is off by more than 1.4 units in the last place", bits, got);
    expect(got >= 0x00800000u, "exp is subnormal", bits, got);
}

/* Neighbouring floats around x, upwards: the result may not fall. */
static void check_rising(float x, int neighbours)
{
    for (int i = -neighbours; i < neighbours; i++) {
        const uint32_t here = qe_bits(x) + (uint32_t)i, next = here + 1;
        const float a = qe_exp(qe_float(here)), b = qe_exp(qe_float(next));
        expect(x > 0 ? a <= b : b <= a, "exp falls", here, qe_bits(a));
    }
}

static uint32_t canonical(float x)
{
    const uint32_t bits = qe_bits(x);
    return is_nan(bits) ? QE_NAN_BITS : bits;
}

static uint64_t mixed(uint64_t z) /* splitmix64's end */
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* The compiler's own operators, which the engine trusts: a soft-float library may round badly.
 * In double one rounding more does no harm, as 53 >= 2 * 24 + 2 and sums and products of floats
 * are that exact. */
static void check_operators(uint64_t seed, qe_sha256 *hash)
{
    const uint64_t random = mixed(seed * 0x9E3779B97F4A7C15u);
    uint32_t u = (uint32_t)random, v = (uint32_t)(random >> 32);
    if (seed % 4 == 1) /* fractions that nearly agree */
        v = (v & 0xFF800000u) | ((u + v % 7 - 3) & 0x7FFFFFu);
    if (seed % 4 == 2) /* results that are subnormal */
        v = (v & 0x80FFFFFFu) | ((u >> 1 & 0x3F800000u) + 0x1F800000u);
    if (seed % 4 == 3) /* exponents near each other, as in most sums */
        v = (v & 0x83FFFFFFu) | (u & 0x7C000000u);
    volatile float a = qe_float(u),
                   b = qe_float(v); /* volatile: the compiler may fold or narrow nothing */
    const float found[4] = {a + b, a - b, a * b, a / b};
    volatile double x = a, y = b, sum = x + y, difference = x - y, product = x * y,
                    quotient = x / y;
    const float want[4] = {(float)sum, (float)difference, (float)product, (float)quotient};
    static const char *const names[4] = {"addition", "subtraction", "multiplication",
                                         "division"};
    for (int i = 0; i < 4; i++) {
        const uint32_t bits = canonical(found[i]);
        expect(bits == canonical(want[i]), names[i], u, bits);
        if (hash)
            qe_sha256_update(hash, &bits, 4);
    }
}

static void print_digest(void)
{
    qe_sha256 hash;
    uint8_t digest[32];
    qe_sha256_init(&hash);
    for (uint64_t i = 0; i < 100000; i++)
        check_operators(i, &hash);
    for (uint64_t u = 0; u <= UINT32_MAX; u += DIGEST_STRIDE) {
        const float x = qe_float((uint32_t)u);
        const uint32_t found[4] = {qe_bits(qe_exp(x)), qe_bits(qe_sqrt_soft(x)),
                                   qe_float_to_half(x),
                                   qe_bits(qe_half_to_float((uint16_t)(u % 0x7C01)))};
        qe_sha256_update(&hash, found, sizeof found);
    }
    qe_sha256_digest(&hash, digest);
    printf("\"digest\": \"");
    for (int i = 0; i < 32; i++)
        printf("%02x", digest[i]);
    printf("\"");
}

int main(int argc, char **argv)
{
    const uint32_t stride = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1009;
    check_widening();
    for (uint32_t h = 0; h < 0x7C00;
         h++) { /* each half, the middle to the next, and their neighbours */
        const uint32_t low = qe_bits(qe_half_to_float((uint16_t)h)),
                       high = qe_bits(qe_half_to_float((uint16_t)(h + 1))),
                       middle = h == 0x7BFF ? qe_bits(65520.0f)
                                            : qe_bits((qe_float(low) + qe_float(high)) * 0.5f);
        const uint32_t tries[5] = {low, low + 1, middle - 1, middle, middle + 1};
        for (int i = 0; i < 5; i++) {
            check_narrowing(tries[i]);
            check_narrowing(tries[i] | 0x80000000u);
        }
    }
    for (uint64_t u = 0; u <= UINT32_MAX; u += stride ? stride : 1) {
        check_narrowing((uint32_t)u);
        check_root((uint32_t)u);
        check_exp((uint32_t)u);
        check_operators(u + 1, NULL);
    }
    for (uint32_t i = 0; i < 4096;
         i++) { /* the smallest, the largest, and around each power of two */
        check_root(i);
        check_root(0x00800000u - 2048 + i);
        check_root(QE_INF_BITS - 2048 + i);
        check_root((i / 16 << 23) + i % 16 - 8);
    }
    float previous = 0.0f;
    for (int i = -44 * 4096; i <= 44 * 4096; i++) {
        const float x = (float)i / 4096.0f, y = qe_exp(x);
        check_exp(qe_bits(x));
        expect(y >= previous, "exp falls on the grid", qe_bits(x), qe_bits(y));
        previous = y;
    }
    for (int n = -64; n < 64; n++) /* where the reduction steps to the next power of two */
        check_rising((float)((n + 0.5) * 0.69314718055994531), 500);
    expect(qe_exp(0.0f) == 1.0f && qe_exp(-0.0f) == 1.0f, "exp(0) is not 1", 0, 0);
    printf("{\"comparisons\": %llu, \"exp_ulp\": %.3f, ", (unsigned long long)compared,
           worst_exp);
    print_digest();
    printf("}\n");
    return 0;
}
