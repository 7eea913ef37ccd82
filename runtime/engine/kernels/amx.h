/* amx.h - what avx512.c takes from amx.c: matmul of a q4_0 or q8_0 matrix in 16x4 tiles for the
 * tokens that fill whole tiles of QE_AMX_TOKENS; the rest is the caller's. And from
 * avx512_products.c: matmul of the other types, which returns 0 for a type that it has not. */
#ifndef QE_AMX_H
#define QE_AMX_H

#include "kernels.h"

/* What clang 18 to 21 call registers of 512 bits, where the command line has taken them away,
 * as zig's does. */
#if defined(__clang__) && !defined(__apple_build_version__) && __clang_major__ >= 18 &&        \
    __clang_major__ <= 21
#define QE_EVEX512 ",evex512"
#else
#define QE_EVEX512 ""
#endif

enum { QE_AMX_TOKENS = 16 };

void qe_amx_products(const qe_matmul *m, uint32_t first, uint32_t count);
int qe_avx512_products(const qe_matmul *m, uint32_t first, uint32_t count);

#endif
