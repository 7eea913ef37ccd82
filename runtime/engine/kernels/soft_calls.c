/* soft_calls.c - float arithmetic for the Cortex-M0+ and M3 in place of the compiler's: as
 * exact (IEEE 754, to nearest, ties to even), which zig's division is not, and on an M0+ half
 * as long as gcc's. The linker sends calls here (--wrap, by the board file); what is not a
 * normal number goes on to the compiler's. */
#if defined(__thumb__) && !defined(__ARM_FP) && !defined(__linux__)
float __real___aeabi_fmul(float a, float b);
float __real___aeabi_fadd(float a, float b);
float __real___aeabi_fdiv(float a, float b);
float __wrap___aeabi_fmul(float a, float b);
float __wrap___aeabi_fadd(float a, float b);
float __wrap___aeabi_fsub(float a, float b);
float __wrap___aeabi_fdiv(float a, float b);

#define SOFT_MUL_ELSE(a, b) __real___aeabi_fmul(a, b)
#define SOFT_ADD_ELSE(a, b) __real___aeabi_fadd(a, b)
#define SOFT_DIV_ELSE(a, b) __real___aeabi_fdiv(a, b)
#include "soft.h"

float __wrap___aeabi_fmul(float a, float b)
{
    return qe_float(soft_mul(qe_bits(a), qe_bits(b)));
}

float __wrap___aeabi_fadd(float a, float b)
{
    return qe_float(soft_add(qe_bits(a), qe_bits(b)));
}

float __wrap___aeabi_fsub(float a, float b)
{
    return qe_float(soft_add(qe_bits(a), qe_bits(b) ^ 0x80000000u));
}

float __wrap___aeabi_fdiv(float a, float b)
{
    return qe_float(soft_div(qe_bits(a), qe_bits(b)));
}
#else
typedef int qe_no_soft_calls;
#endif
