/* neon.c - the AArch64 kernels for every core (A53, A72): byte products through int16. */
#if defined(__aarch64__)
#include <arm_neon.h>

/* |w| <= 128 and |x| <= 127: a pair is at most 32512, so int16 holds it. */
static inline int32x4_t dot16(int32x4_t acc, int8x16_t w, int8x16_t x)
{
    const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return vpadalq_s16(acc, vpaddq_s16(low, high));
}

#define QE_SET qe_neon
#define QE_SET_NAME "neon"
#include "neon_set.h"
#else
typedef int qe_no_neon;
#endif
