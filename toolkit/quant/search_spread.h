/* search_spread.h - error compensation: what rounding does to a column is made good in those
 * that are rounded after it, as GPTQ does (Frantar and others 2022, arXiv:2210.17323). The
 * error of a row is e^T H e, H the second moment of the matrix's inputs, in pieces of columns
 * by themselves. With H = L^T D L, L lower and of unit diagonal, it is the sum of
 * D_i (e_i + sum_{k<i} L_ik e_k)^2: the sum over k is what is added to column i before it is
 * rounded. No state, no allocation; the same bytes on every host, as search.h. */
#ifndef QEDGE_SEARCH_SPREAD_H
#define QEDGE_SEARCH_SPREAD_H

#include "search.h"

/* Lower triangles lie in bands of 32 rows: band b has 32 (b + 1) columns, whole rows after each
 * other. Numbers in one of so many columns, a multiple of 32. */
size_t qs_triangle(uint32_t columns);

/* Adds the products x_i x_k of `tokens` rows of x, `stride` floats apart, to sums
 * (qs_triangle(columns)); columns a multiple of 32. */
void qs_add_products(const float *x, uint32_t tokens, size_t stride, uint32_t columns,
                     float *sums);

/* One piece of H to L and D. correlations (qs_triangle(columns)): of columns i and k in parts
 * of 127, of which the share `kept`, below 1, is believed; roots (columns): of the mean
 * squares. factors (qs_triangle(columns)) becomes L, weights (columns) D. */
void qs_factor(const int8_t *correlations, const float *roots, uint32_t columns, float kept,
               float *factors, float *weights);

/* Pieces of `piece` columns, the last one of what is left, up to whole blocks of 32; their
 * triangles after each other, and the weights of all columns. piece is a multiple of qs_block.
 */
typedef struct {
    const float *factors, *weights;
    uint32_t piece;
} qs_spread;

/* Whether a kind can be compensated: all but q8_0, which has no need, and iq4_nl. */
int qs_can_spread(qs_kind kind);

/* Bytes of work, 16-byte aligned, that qs_quantize_spread wants. */
size_t qs_spread_work_bytes(qs_kind kind, uint32_t columns, uint32_t piece);

/* As qs_quantize, with D for importance and errors made good. */
int64_t qs_quantize_spread(qs_kind kind, const float *values, uint32_t rows, uint32_t columns,
                           const qs_spread *spread, void *work, uint8_t *out);

#endif
