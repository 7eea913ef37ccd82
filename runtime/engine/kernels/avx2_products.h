/* avx2_products.h - what avx2.c takes from avx2_products.c and avxvnni.c. */
#ifndef QE_AVX2_PRODUCTS_H
#define QE_AVX2_PRODUCTS_H

#include "kernels.h"

/* matmul of quantized weights in groups of 16 rows. */
typedef void qe_products(const qe_matmul *m, uint32_t first, uint32_t count);
/* score_q8 of one tile of 16 positions and heads of whole blocks. */
typedef void qe_scores(const uint8_t *k, uint32_t blocks, const qe_act *q, uint32_t heads,
                       float *scores, size_t stride);

qe_products qe_avx2_products, qe_avxvnni_products;
qe_scores qe_avx2_scores, qe_avxvnni_scores;

#endif
