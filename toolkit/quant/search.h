/* search.h - rows of weights to the stored rows of a format, with scales (and minima) searched
 * for the least error sum_j A_j (w_j - stored_j)^2, A the importance of column j. And back.
 * Formats of ggml are byte for byte as GGUF has them; a2 to a6 are the affine rows of SPEC 2.
 * No state, no allocation; float32 operations of IEEE 754 alone, in one order: the same bytes
 * on every host. It does not know tiles: see tiles.h. */
#ifndef QEDGE_SEARCH_H
#define QEDGE_SEARCH_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    QS_Q4_0,
    QS_Q4_1,
    QS_Q5_0,
    QS_Q5_1,
    QS_Q8_0,
    QS_IQ4_NL,
    QS_Q2_K,
    QS_Q3_K,
    QS_Q4_K,
    QS_Q5_K,
    QS_Q6_K,
    QS_A2,
    QS_A3,
    QS_A4,
    QS_A5,
    QS_A6,
    QS_KINDS
} qs_kind;

/* Columns of a block: 32, or 256 for the K types. */
uint32_t qs_block(qs_kind kind);

/* Bytes of a stored row; the last block may be partly filled. */
size_t qs_row_bytes(qs_kind kind, uint32_t columns);

/* Bytes of work, 4-byte aligned, that qs_quantize wants for rows of so many columns. */
size_t qs_work_bytes(qs_kind kind, uint32_t columns);

/* values: (rows, columns); importance: (columns), finite and >= 0, or NULL for all the same;
 * out: (rows, qs_row_bytes). What is missing of the last block is stored as zeros of no
 * importance. Scales that f16 cannot hold become its largest.
 * Returns the lowest row that holds a weight that is not finite, or -1; with the former out is
 * of no use. */
int64_t qs_quantize(qs_kind kind, const float *values, uint32_t rows, uint32_t columns,
                    const float *importance, void *work, uint8_t *out);

/* stored: (rows, qs_row_bytes) to values: (rows, columns). */
void qs_dequantize(qs_kind kind, const uint8_t *stored, uint32_t rows, uint32_t columns,
                   float *values);

#endif
