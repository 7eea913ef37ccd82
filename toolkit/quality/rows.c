/* rows.c - log-probabilities of rows of logits, and their divergence.
 *
 * rows_body.h is the arithmetic, compiled once as it is and once for AVX2: wider registers, the
 * same operations in the same order (QR_PLAIN leaves it out). FLAGS forbid fused operations. */
#include "rows.h"

#include <string.h>

#define QR_NAME compare_plain
#define QR_TARGET
#include "rows_body.h"
#undef QR_NAME
#undef QR_TARGET

#if defined(__x86_64__) && !defined(QR_PLAIN)
#define QR_NAME compare_avx2
#define QR_TARGET __attribute__((target("avx2")))
#include "rows_body.h"
#endif

/* Natural logarithm of x in [1, 2^53): 2 artanh((m - 1) / (m + 1)) of the mantissa. */
static double log_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, 8);
    int32_t exponent = (int32_t)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffULL) | 0x3ff0000000000000ULL;
    double m;
    memcpy(&m, &bits, 8);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent++;
    }
    double s = (m - 1) / (m + 1), square = s * s, sum = 0;
    for (int32_t k = 21; k > 0; k -= 2)
        sum = sum * square + 1.0 / k;
    return exponent * 0.69314718055994531 + 2 * s * sum;
}

static uint32_t first_of(const float *row, uint32_t size, float value)
{
    uint32_t at = 0;
    while (at + 1 < size && row[at] != value)
        at++;
    return at;
}

void qr_compare(const float *base, const float *other, size_t stride, uint32_t size,
                const int32_t *target, size_t first, size_t stop, double *out)
{
    void (*sums_of)(const float *, const float *, uint32_t, struct sums *) = compare_plain_row;
#if defined(__x86_64__) && !defined(QR_PLAIN)
    if (__builtin_cpu_supports("avx2"))
        sums_of = compare_avx2_row;
#endif
    for (size_t row = first; row < stop; row++) {
        const float *a = base ? base + row * stride : NULL, *b = other + row * stride;
        double *to = out + row * QR_COLUMNS;
        struct sums found;
        sums_of(a ? a : b, b, size, &found);
        double log_b = log_of(found.other);
        to[QR_NLL] = (double)found.top_other - b[target[row]] + log_b;
        to[QR_NLL_BASE] = to[QR_KL] = to[QR_SAME_TOP] = 0;
        if (a) {
            double log_a = log_of(found.base);
            /* both logits from their own largest one, so that nothing large cancels */
            double kl = found.distance / found.base - log_a + log_b;
            to[QR_NLL_BASE] = (double)found.top_base - a[target[row]] + log_a;
            to[QR_KL] = kl > 0 ? kl : 0; /* below 0 by rounding only */
            to[QR_SAME_TOP] =
                first_of(a, size, found.top_base) == first_of(b, size, found.top_other);
        }
    }
}
