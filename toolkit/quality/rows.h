/* rows.h - what logits say of a token, and how far two models' rows of logits lie apart.
 *
 * All sums are in double and in one order, and so are exp and log, which are here: the same
 * bits on every machine, whatever its C library. */
#ifndef QEDGE_QUALITY_ROWS_H
#define QEDGE_QUALITY_ROWS_H

#include <stddef.h>
#include <stdint.h>

enum { QR_NLL_BASE, QR_NLL, QR_KL, QR_SAME_TOP, QR_COLUMNS };

/* Of rows first to stop - 1 of (rows, stride) finite logits, of which size count; target: the
 * token that came, one a row, below size. out: (rows, QR_COLUMNS): -log p of the target by base
 * and by other, the Kullback-Leibler divergence sum p_base (log p_base - log p_other) in nats,
 * and 1 where both have the same first largest logit, else 0. Without a base (NULL) its columns
 * are 0. */
void qr_compare(const float *base, const float *other, size_t stride, uint32_t size,
                const int32_t *target, size_t first, size_t stop, double *out);

#endif
