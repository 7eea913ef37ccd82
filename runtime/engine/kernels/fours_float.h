/* fours_float.h - what the sets of fours.h have in common whose processors have a float unit
 * (or a compiler that takes its place): floats are plain C.
 * Include it before fours.h. */
#include "fours_base.h"

#define FOURS_HOT 1

INLINE float half_at(const uint8_t *p)
{
#if defined(__ARM_FP) &&                                                                       \
    __ARM_ARCH_PROFILE == 'M' /* FPv4 converts halves, subnormal ones too */
    float value;
    __asm__("vmov %0, %1\n\tvcvtb.f32.f16 %0, %0"
            : "=t"(value)
            : "r"((uint32_t)*(const uint16_t *)__builtin_assume_aligned(p, 2)));
    return value;
#else
    return qe_half_to_float(qe_load16(p));
#endif
}

INLINE float half_times(const uint8_t *p, float x)
{
    return half_at(p) * x;
}

INLINE float product(float x, int32_t n)
{
    return x * (float)n;
}

INLINE float add_product(float to, float x, int32_t n)
{
    return to + x * (float)n;
}
