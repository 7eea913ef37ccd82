/* soft_check.c - soft.h against this processor's own floats, on patterns that are random,
 * neighbours, near powers of two, subnormal, infinite and not numbers.
 *
 * soft_check COUNT: prints {"checked": n, "wrong": n}, and the first wrong one on stderr. */
#include <stdio.h>
#include <stdlib.h>

#include "../../runtime/engine/kernels/soft.h"

static uint64_t state = 88172645463325252u;

static uint32_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static uint32_t some_float(void)
{
    switch (next() % 6) {
    case 0: return next();
    case 1: return (next() & 0x807FFFFF) | (100 + next() % 60) << 23;
    case 2: return (next() & 0x80000FFF) | (120 + next() % 10) << 23;
    case 3: return (next() & 0x807FF000) | (120 + next() % 14) << 23;
    case 4: return next() & 0x80FFFFFF;
    default: return (next() & 0x80000000) | next() % 256 << 23 | ((next() % 3 - 1) & 0x7FFFFF);
    }
}

static int not_a_number(uint32_t bits)
{
    return (bits & 0x7FFFFFFF) > QE_INF_BITS;
}

static unsigned long wrong;

static void compare(const char *what, uint32_t a, uint32_t b, uint32_t got, float want)
{
    if (got == qe_bits(want) || (not_a_number(got) && not_a_number(qe_bits(want))))
        return;
    if (!wrong++)
        fprintf(stderr, "%s %08x %08x: %08x, not %08x\n", what, (unsigned)a, (unsigned)b,
                (unsigned)got, (unsigned)qe_bits(want));
}

int main(int argc, char **argv)
{
    const unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
    for (unsigned long i = 0; i < count; i++) {
        const uint32_t a = some_float(), b = next() % 4 ? some_float() : a ^ next() % 4;
        const uint16_t half = (uint16_t)next();
        const uint32_t size = next() % (1u << next() % 29);
        const int32_t n = next() & 1 ? (int32_t)size : -(int32_t)size;
        const uint32_t minus = b ^ 0x80000000u;
        compare("mul", a, b, soft_mul(a, b), qe_float(a) * qe_float(b));
        compare("div", a, b, soft_div(a, b), qe_float(a) / qe_float(b));
        compare("add", a, b, soft_add(a, b), qe_float(a) + qe_float(b));
        compare("sub", a, b, soft_add(a, minus), qe_float(a) - qe_float(b));
        compare("half", half, a, soft_mul_half(half, a), qe_half_to_float(half) * qe_float(a));
        compare("int", a, (uint32_t)n, soft_mul_int(a, n), qe_float(a) * (float)n);
    }
    printf("{\"checked\": %lu, \"wrong\": %lu}\n", 6 * count, wrong);
    return wrong != 0;
}
