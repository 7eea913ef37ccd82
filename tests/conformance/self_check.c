/* self_check.c - qe_kernels_check, which runs at import: it passes every set of this machine
 * and notices sets that are wrong in one bit.
 *
 *   self_check
 *
 * Prints one line of JSON: the sets that passed, and how many wrong ones were noticed. */
#include "../../runtime/engine/kernels/kernels.h"
#include "../../runtime/host/host.h"

#include <stdio.h>

static uint32_t wrong_type;

static void wrong_matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    qe_portable_matmul(m, first, count);
    if (m->type == wrong_type)
        m->out[(m->tokens - 1) * m->out_stride + 15] *= 1.0f + 0x1p-23f;
}

static void wrong_quantize(const float *x, uint32_t n, int8_t *q, float *d, int16_t *s)
{
    qe_portable.quantize(x, n, q, d, s);
    q[n - 1] ^= 1;
}

int main(void)
{
    static const uint32_t types[] = {QE_Q4_0, QE_Q8_0, QE_Q4_K, QE_A4};
    const uint32_t features = qe_host_features();
    const char *name;
    int usable, noticed = 0, passed = 0;
    qe_host_float_enter();
    printf("{\"passed\": [");
    for (uint32_t i = 0; (name = qe_kernels_list(i, features, &usable)) != NULL; i++)
        if (usable && qe_kernels_check(qe_kernels_find(name, features)) == QE_OK)
            printf("%s\"%s\"", passed++ ? ", " : "", name);
    qe_kernels wrong = qe_portable;
    wrong.matmul = wrong_matmul;
    for (int i = 0; i < 4; i++) {
        wrong_type = types[i];
        noticed += qe_kernels_check(&wrong) == QE_ERR_KERNELS;
    }
    wrong.matmul = qe_portable_matmul;
    noticed += qe_kernels_check(&wrong) == QE_OK; /* right, though not portable.c's own */
    wrong.quantize = wrong_quantize;
    noticed += qe_kernels_check(&wrong) == QE_ERR_KERNELS;
    printf("], \"noticed\": %d}\n", noticed);
    return 0;
}
