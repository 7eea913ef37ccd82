/* dsp.c - the kernels of Arm processors with products of half-word pairs: Cortex-M4, M7 and
 * M33, and ARMv6 (Pi Zero). Equal to portable.c. */
#if defined(__arm__) && defined(__ARM_FEATURE_SIMD32) && !defined(__ARM_FEATURE_MVE)
#include "fours_float.h"

/* Bytes 0 and 2, or 1 and 3, as signed half-words. */
INLINE uint32_t even(uint32_t word)
{
    uint32_t pair;
    __asm__("sxtb16 %0, %1" : "=r"(pair) : "r"(word));
    return pair;
}

INLINE uint32_t odd(uint32_t word)
{
    uint32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    return pair;
}

INLINE uint32_t word_at(const void *p)
{
    return *(const uint32_t *)__builtin_assume_aligned(p, 4);
}

/* Where the compiler is left to order loads, it loads all of a block first and spills it: so
 * the steps below are in assembly, loads and products together. Any register goes with ldrd in
 * Thumb; ARM instructions want pairs, and load words. */
#if defined(__thumb__)
#define LOAD_TWO(offset) "ldrd %[t], %[u], [%[w], #" #offset "]\n\t"
#else
#define LOAD_TWO(offset)                                                                       \
    "ldr %[t], [%[w], #" #offset "]\n\tldr %[u], [%[w], #4+" #offset "]\n\t"
#endif
#define ROW(word, sum)                                                                         \
    "sxtb16 %[v], %[" #word "]\n\t"                                                            \
    "sxtb16 %[" #word "], %[" #word "], ror #8\n\t"                                            \
    "smlad %[" #sum "], %[v], %[even], %[" #sum "]\n\t"                                        \
    "smlad %[" #sum "], %[" #word "], %[odd], %[" #sum "]\n\t"

INLINE void sums_q8(const uint8_t *w, size_t step, uint32_t n, const columns *of,
                    int32_t isum[4])
{
    const int8_t *x = *of;
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (const int8_t *end = x + 4 * n; x < end; x += 4, w += step) {
        const uint32_t columns = word_at(x), x_even = even(columns), x_odd = odd(columns);
        uint32_t t, u, v;
        __asm__ volatile(LOAD_TWO(0) ROW(t, a) ROW(u, b) LOAD_TWO(8) ROW(t, c) ROW(u, d)
                         : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [t] "=&r"(t),
                           [u] "=&r"(u), [v] "=&r"(v)
                         : [w] "r"(w), [even] "r"(x_even), [odd] "r"(x_odd)
                         : "memory");
    }
    isum[0] = a;
    isum[1] = b;
    isum[2] = c;
    isum[3] = d;
}

/* Four columns of activations and the four that are 16 further, as pairs. */
typedef struct {
    uint32_t low_even, low_odd, high_even, high_odd;
} columns_q4;

/* Nibbles are 8 more than the weights. */
INLINE int32_t row_q4(const uint32_t *w, const columns_q4 *x, int32_t sum)
{
    uint32_t word, v;
    __asm__ volatile("ldr %[word], %[from]\n\t"
                     "and %[v], %[pair], %[word]\n\t"
                     "smlad %[sum], %[v], %[low_even], %[sum]\n\t"
                     "and %[v], %[pair], %[word], lsr #8\n\t"
                     "smlad %[sum], %[v], %[low_odd], %[sum]\n\t"
                     "and %[v], %[pair], %[word], lsr #4\n\t"
                     "smlad %[sum], %[v], %[high_even], %[sum]\n\t"
                     "and %[v], %[pair], %[word], lsr #12\n\t"
                     "smlad %[sum], %[v], %[high_odd], %[sum]"
                     : [sum] "+r"(sum), [word] "=&r"(word), [v] "=&r"(v)
                     : [from] "m"(*w), [pair] "r"(0x000F000F), [low_even] "r"(x->low_even),
                       [low_odd] "r"(x->low_odd), [high_even] "r"(x->high_even),
                       [high_odd] "r"(x->high_odd));
    return sum;
}

INLINE void sums_q4(const uint8_t *w, const columns *of, int32_t s, int32_t isum[4])
{
    const int8_t *x = *of;
    int32_t a = -8 * s, b = a, c = a, d = a;
    const uint32_t *words = __builtin_assume_aligned(w, 4);
    for (const int8_t *end = x + 16; x < end; x += 4, words += 4) {
        const uint32_t low = word_at(x), high = word_at(x + 16);
        const columns_q4 pairs = {even(low), odd(low), even(high), odd(high)};
        a = row_q4(words, &pairs, a);
        b = row_q4(words + 1, &pairs, b);
        c = row_q4(words + 2, &pairs, c);
        d = row_q4(words + 3, &pairs, d);
    }
    isum[0] = a;
    isum[1] = b;
    isum[2] = c;
    isum[3] = d;
}

#include "fours.h"

const qe_kernels qe_dsp = FOURS_SET("dsp");
#else
typedef int qe_no_dsp;
#endif
