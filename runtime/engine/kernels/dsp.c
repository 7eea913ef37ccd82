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

INLINE void sums_q8(const uint8_t *w, size_t step, uint32_t n, const columns *of,
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

/* The pairs of two fours of columns, numbers `first` and `second` of a block. */
#define PAIRS(first, second)                                                                   \
    LOAD_PAIR(e, o, first)                                                                     \
    LOAD_PAIR(f, p, second)
#if defined(__thumb__)
#define LOAD_PAIR(even, odd, four) "ldrd %[" #even "], %[" #odd "], [%[x], #8*" #four "]\n\t"
#else
#define LOAD_PAIR(even, odd, four)                                                             \
    "ldr %[" #even "], [%[x], #8*" #four "]\n\tldr %[" #odd "], [%[x], #4+8*" #four "]\n\t"
#endif
/* A row's word, or two words, by them: the levels that begin at these bits of it, text. */
#define WORD(at) "ldr %[word], [%[w], #" at "]\n\t"
#define LEVELS(sum, shift, by)                                                                 \
    "and %[v], %[mask], %[word]" shift "\n\t"                                                  \
    "smlad %[" #sum "], %[v], %[" #by "], %[" #sum "]\n\t"
#define ROW_BY(sum, first, second, s0, s1, s2, s3)                                             \
    first LEVELS(sum, s0, e) LEVELS(sum, s1, o) second LEVELS(sum, s2, f) LEVELS(sum, s3, p)
#define ROWS_BY(at, s0, s1, s2, s3)                                                            \
    ROW_BY(a, WORD("0+" at), "", s0, s1, s2, s3)                                               \
    ROW_BY(b, WORD("4+" at), "", s0, s1, s2, s3)                                               \
    ROW_BY(c, WORD("8+" at), "", s0, s1, s2, s3)                                               \
    ROW_BY(d, WORD("12+" at), "", s0, s1, s2, s3)
#define ROWS_BY_TWO(at, then, s0, s1)                                                          \
    ROW_BY(a, WORD("0+" at), WORD("0+" then), s0, s1, s0, s1)                                  \
    ROW_BY(b, WORD("4+" at), WORD("4+" then), s0, s1, s0, s1)                                  \
    ROW_BY(c, WORD("8+" at), WORD("8+" then), s0, s1, s0, s1)                                  \
    ROW_BY(d, WORD("12+" at), WORD("12+" then), s0, s1, s0, s1)
#define LSR(n) ", lsr #" #n

typedef struct {
    int32_t row[4];
} four_sums;

/* All in one, as between two statements the compiler would put the sums elsewhere. */
#define FUNCTION(name, words, pairs, of, ...)                                                  \
    INLINE void name(const uint8_t *from, const uint32_t *x, four_sums *sum)                   \
    {                                                                                          \
        const uint32_t *w = __builtin_assume_aligned(from, 4);                                 \
        int32_t a = sum->row[0], b = sum->row[1], c = sum->row[2], d = sum->row[3];            \
        uint32_t e, o, f, p, word, v;                                                          \
        __asm__(__VA_ARGS__                                                                    \
                : [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [e] "=&r"(e),            \
                  [o] "=&r"(o), [f] "=&r"(f), [p] "=&r"(p), [word] "=&r"(word), [v] "=&r"(v)   \
                : [w] "r"(w), [x] "r"(x), [mask] "r"(of), "m"(*(const uint32_t(*)[words])w),   \
                  "m"(*(const uint32_t(*)[pairs])x));                                          \
        *sum = (four_sums){{a, b, c, d}};                                                      \
    }

#define BOTH(four, then, at) PAIRS(four, then) ROWS_BY(at, "", LSR(8), LSR(4), LSR(12))
FUNCTION(nibbles_of_both, 16, 16, 0x000F000F,
         BOTH(0, 4, "0") BOTH(1, 5, "16") BOTH(2, 6, "32") BOTH(3, 7, "48"))
FUNCTION(low_nibbles, 16, 16, 0x000F000F,
         PAIRS(0, 1) ROWS_BY_TWO("0", "16", "", LSR(8)) PAIRS(2, 3)
             ROWS_BY_TWO("32", "48", "", LSR(8)))
FUNCTION(high_nibbles, 16, 16, 0x000F000F,
         PAIRS(4, 5) ROWS_BY_TWO("0", "16", LSR(4), LSR(12)) PAIRS(6, 7)
             ROWS_BY_TWO("32", "48", LSR(4), LSR(12)))
FUNCTION(crumbs, 4, 8, 0x00030003, /* of a half */
         PAIRS(0, 1) ROWS_BY("0", "", LSR(8), LSR(2), LSR(10)) PAIRS(2, 3)
             ROWS_BY("0", LSR(4), LSR(12), LSR(6), LSR(14)))
FUNCTION(low_bits, 4, 8, 0x00010001,
         PAIRS(0, 1) ROWS_BY("0", "", LSR(8), LSR(1), LSR(9)) PAIRS(2, 3)
             ROWS_BY("0", LSR(2), LSR(10), LSR(3), LSR(11)))
FUNCTION(high_bits, 4, 16, 0x00010001,
         PAIRS(4, 5) ROWS_BY("0", LSR(4), LSR(12), LSR(5), LSR(13)) PAIRS(6, 7)
             ROWS_BY("0", LSR(6), LSR(14), LSR(7), LSR(15)))

INLINE void nibbles(const uint8_t *w, const columns *c, int32_t *isum, uint32_t apart)
{
    four_sums sum = {{0}};
    if (!apart) {
        nibbles_of_both(w, c->pairs, &sum);
    } else {
        low_nibbles(w, c->pairs, &sum);
        memcpy(isum, &sum, sizeof sum);
        sum = (four_sums){{0}};
        high_nibbles(w, c->pairs, &sum);
    }
    memcpy(isum + apart, &sum, sizeof sum);
}

/* Adds what there is of a half, and begins anew. */
INLINE void add_sums(int32_t *isum, four_sums *sum, int32_t times)
{
    for (int r = 0; r < 4; r++)
        isum[r] += sum->row[r] * times;
    *sum = (four_sums){{0}};
}

INLINE void add_crumbs(const uint8_t *w, const columns *c, int32_t times, int32_t *isum,
                       uint32_t apart)
{
    four_sums sum = {{0}};
    crumbs(w, c->pairs, &sum);
    if (apart)
        add_sums(isum, &sum, times);
    crumbs(w + 16, c->pairs + 8, &sum);
    add_sums(isum + apart, &sum, times);
}

INLINE void add_bits(const uint8_t *w, const columns *c, int32_t times, int32_t *isum,
                     uint32_t apart)
{
    four_sums sum = {{0}};
    low_bits(w, c->pairs, &sum);
    if (apart)
        add_sums(isum, &sum, times);
    high_bits(w, c->pairs, &sum);
    add_sums(isum + apart, &sum, times);
}

#include "fours_planes.h"

#include "fours.h"

const qe_kernels qe_dsp = FOURS_SET("dsp");
#else
typedef int qe_no_dsp;
#endif
