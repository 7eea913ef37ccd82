/* avx2_products.h - what avx2.c and avx512.c take from avx2_products.c. */
#ifndef QE_AVX2_PRODUCTS_H
#define QE_AVX2_PRODUCTS_H

#include "kernels.h"

/* matmul of quantized weights in groups of 16 rows. */
void qe_avx2_products(const qe_matmul *m, uint32_t first, uint32_t count);
/* score_q8 of one tile of 16 positions and heads of whole blocks. */
void qe_avx2_scores(const uint8_t *k, uint32_t blocks, const qe_act *q, uint32_t heads,
                    float *scores, size_t stride);

#endif
