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

typedef struct {
    const int8_t *x;    /* for sums_q8 */
    uint32_t pairs[16]; /* the even and the odd two of each four */
} columns;

INLINE void prepare_q8(const int8_t *x, uint32_t n, columns *c)
{
    (void)n;
    c->x = x;
}

INLINE void prepare(const int8_t *x, columns *c)
{
    for (int i = 0; i < 8; i++) {
        const uint32_t four = word_at(x + 4 * i);
        c->pairs[2 * i] = even(four);
        c->pairs[2 * i + 1] = odd(four);
    }
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

APART void sums_q8(const uint8_t *w, size_t step, uint32_t n, const columns *of,
                   int32_t isum[4])
{
    const int8_t *x = of->x;
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

/* Two fours of columns, as pairs. */
typedef struct {
    uint32_t pair[4];
} two_fours;

INLINE two_fours fours_at(const uint32_t *first, const uint32_t *second)
{
    return (two_fours){{first[0], first[1], second[0], second[1]}};
}

/* Levels that begin at bits `from` and `then` of each byte of a row's word, and in the bytes
 * between them, by two fours; text, "" for 0. */
#define TWO_FOURS(from, from_odd, then, then_odd, then_sum)                                    \
    "ldr %[word], %[at]\n\t"                                                                   \
    "and %[v], %[mask], %[word]" from "\n\t"                                                   \
    "smlad %[sum], %[v], %[a], %[sum]\n\t"                                                     \
    "and %[v], %[mask], %[word], lsr #" from_odd "\n\t"                                        \
    "smlad %[sum], %[v], %[b], %[sum]\n\t"                                                     \
    "and %[v], %[mask], %[word], lsr #" then "\n\t"                                            \
    "smlad %[" then_sum "], %[v], %[c], %[" then_sum "]\n\t"                                   \
    "and %[v], %[mask], %[word], lsr #" then_odd "\n\t"                                        \
    "smlad %[" then_sum "], %[v], %[d], %[" then_sum "]"
#define TWO_FOURS_OF(w, of, x)                                                                 \
    [at] "m"(*(w)), [mask] "r"(of), [a] "r"((x)->pair[0]), [b] "r"((x)->pair[1]),              \
        [c] "r"((x)->pair[2]), [d] "r"((x)->pair[3])

#define TWO_FOURS_TO_ONE(name, ...)                                                            \
    INLINE void name(const uint8_t *from, uint32_t mask, two_fours x, int32_t sum[4])          \
    {                                                                                          \
        const uint32_t *w = __builtin_assume_aligned(from, 4);                                 \
        for (int r = 0; r < 4; r++) {                                                          \
            uint32_t word, v;                                                                  \
            __asm__ volatile(TWO_FOURS(__VA_ARGS__, "sum")                                     \
                             : [sum] "+r"(sum[r]), [word] "=&r"(word), [v] "=&r"(v)            \
                             : TWO_FOURS_OF(w + r, mask, &x));                                 \
        }                                                                                      \
    }

TWO_FOURS_TO_ONE(four_nibbles, "", "8", "4", "12")
TWO_FOURS_TO_ONE(low_crumbs, "", "8", "2", "10")
TWO_FOURS_TO_ONE(high_crumbs, ", lsr #4", "12", "6", "14")
TWO_FOURS_TO_ONE(bits_0, "", "8", "1", "9")
TWO_FOURS_TO_ONE(bits_2, ", lsr #2", "10", "3", "11")
TWO_FOURS_TO_ONE(bits_4, ", lsr #4", "12", "5", "13")
TWO_FOURS_TO_ONE(bits_6, ", lsr #6", "14", "7", "15")

/* Two rows at a time, for which there are registers. */
INLINE void nibbles_apart(const uint8_t *from, const uint32_t *x, int32_t isum[8])
{
    const uint32_t *w = __builtin_assume_aligned(from, 4);
    for (int r = 0; r < 4; r += 2) {
        int32_t low[2] = {0}, high[2] = {0};
        for (int i = 0; i < 4; i++) {
            const two_fours four = fours_at(x + 2 * i, x + 2 * i + 8);
            for (int k = 0; k < 2; k++) {
                uint32_t word, v;
                __asm__ volatile(
                    TWO_FOURS("", "8", "4", "12", "then")
                    : [sum] "+r"(low[k]), [then] "+r"(high[k]), [word] "=&r"(word), [v] "=&r"(v)
                    : TWO_FOURS_OF(w + 4 * i + r + k, 0x000F000F, &four));
            }
        }
        for (int k = 0; k < 2; k++) {
            isum[r + k] = low[k];
            isum[4 + r + k] = high[k];
        }
    }
}

INLINE void nibbles(const uint8_t *w, const columns *c, int32_t *isum, uint32_t apart)
{
    const uint32_t *x = c->pairs;
    if (apart) {
        nibbles_apart(w, x, isum);
        return;
    }
    int32_t sum[4] = {0};
    for (int i = 0; i < 4; i++)
        four_nibbles(w + 16 * i, 0x000F000F, fours_at(x + 2 * i, x + 2 * i + 8), sum);
    memcpy(isum, sum, sizeof sum);
}

/* Adds what there is of a half, and begins anew. */
INLINE void add_sums(int32_t *isum, int32_t sum[4], int32_t times)
{
    for (int r = 0; r < 4; r++) {
        isum[r] += sum[r] * times;
        sum[r] = 0;
    }
}

INLINE void add_crumbs(const uint8_t *w, const columns *c, int32_t times, int32_t *isum,
                       uint32_t apart)
{
    const uint32_t mask = 0x00030003;
    const uint32_t *x = c->pairs;
    int32_t sum[4] = {0};
    low_crumbs(w, mask, fours_at(x, x + 2), sum);
    high_crumbs(w, mask, fours_at(x + 4, x + 6), sum);
    if (apart)
        add_sums(isum, sum, times);
    low_crumbs(w + 16, mask, fours_at(x + 8, x + 10), sum);
    high_crumbs(w + 16, mask, fours_at(x + 12, x + 14), sum);
    add_sums(isum + apart, sum, times);
}

INLINE void add_bits(const uint8_t *w, const columns *c, int32_t times, int32_t *isum,
                     uint32_t apart)
{
    const uint32_t mask = 0x00010001;
    const uint32_t *x = c->pairs;
    int32_t sum[4] = {0};
    bits_0(w, mask, fours_at(x, x + 2), sum);
    bits_2(w, mask, fours_at(x + 4, x + 6), sum);
    if (apart)
        add_sums(isum, sum, times);
    bits_4(w, mask, fours_at(x + 8, x + 10), sum);
    bits_6(w, mask, fours_at(x + 12, x + 14), sum);
    add_sums(isum + apart, sum, times);
}

#include "fours_planes.h"

#include "fours.h"

const qe_kernels qe_dsp = FOURS_SET("dsp");
#else
typedef int qe_no_dsp;
#endif
