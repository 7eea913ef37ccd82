/* fours_base.h - the words that fours.h and the sets that include it are written in. */
#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define APART static __attribute__((noinline))
#else /* nor once more for some arguments */
#define APART static __attribute__((noinline, noclone))
#endif
#define FOURS_AT_ONCE 4 /* how many fours of rows share what is made of activations */

INLINE uint32_t word_at(const void *p)
{
    return *(const uint32_t *)__builtin_assume_aligned(p, 4);
}
