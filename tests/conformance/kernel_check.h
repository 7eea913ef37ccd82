/* kernel_check.h - what kernel_check's cases share: adversarial data made by integers alone (so
 * that every machine makes the same), memory that ends at a page nobody may touch, and the
 * comparison of bits. */
#ifndef KERNEL_CHECK_H
#define KERNEL_CHECK_H

#include "../../runtime/engine/kernels/kernels.h"

enum { MOST_SETS = 8, GUARDED = 10 };

/* Data of one case: ordinary values only, or infinities, NaN, subnormals and the edges too. */
enum { ORDINARY, EXTREME };

extern const qe_kernels *sets[MOST_SETS]; /* every usable set but portable */
extern uint32_t set_count;
extern uint64_t compared;
extern qe_sha256 digest; /* of what portable gives, NaN made one */
extern int quick;

/* Says what is being compared, for the message of a difference. */
void describe(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint32_t pick(uint32_t below); /* 0 .. below - 1 */
float ordinary(void);          /* in -8 .. 8 */
float extreme(void);           /* any edge of the format */
uint16_t scale_half(int kind); /* a block's scale */
/* A row for quantize, rmsnorm and so on; each block of 32 has a character of its own. */
void fill_row(float *x, uint32_t n, int kind);
/* Quantized activations as quantize could give them, ±127 and zero blocks among them. */
void fill_act(qe_act *act, uint32_t rows, uint32_t columns, int kind);

/* `bytes` that end at a page where reading and writing fault; slot is 0 .. GUARDED - 1. */
void *guarded(uint32_t slot, size_t bytes);

void same_floats(const char *what, const char *set, const float *truth, const float *found,
                 size_t n);
void same_bytes(const char *what, const char *set, const void *truth, const void *found,
                size_t n);
/* Adds portable's result to the digest. */
void record(const float *x, size_t n);
void record_bytes(const void *x, size_t n);

void check_matmul(void);    /* kernel_matmul.c */
void check_rows(void);      /* kernel_rows.c: quantize, rmsnorm, silu_mul, softmax, weights */
void check_attention(void); /* kernel_attention.c */
void check_sampling(void);  /* kernel_rows.c: order, survey, pick, first_largest */

#endif
