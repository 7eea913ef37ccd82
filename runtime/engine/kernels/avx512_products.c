/* avx512_products.c - matrix products in registers of 16 rows, for the types that avx512.c has
 * no tile of its own for. */
#if defined(__x86_64__) && !defined(QE_PORTABLE_ONLY)
#include "amx.h"

#if defined(QE_EMULATE_VNNI) /* the same text on any x86-64-v3: see vnni_emulated.h */
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#elif defined(__clang__)
#pragma clang attribute push(                                                                  \
    __attribute__((                                                                            \
        target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c" QE_EVEX512))),        \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target(                                                                            \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c,prefer-vector-width=512")
#endif

#include "avx2_unpack.h"

#define VB 64
#define GROUPS 2
#if defined(QE_EMULATE_VNNI)
#include "vnni_emulated.h"
#else
#define dot(sum, u, s) ((vi)_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(u), (__m512i)(s)))
#define pairs(a, b) ((vi)_mm512_madd_epi16((__m512i)(a), (__m512i)(b)))
#define lookup(table, at)                                                                      \
    ((vb)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(row_bytes((const uint8_t *)(table))),      \
                             (__m512i)(at)))
#define floats_of(v) ((vf)_mm512_cvtepi32_ps((__m512i)(v)))
#define rows_of(p) ((vi)_mm512_cvtepu8_epi32(row_bytes(p)))
#endif
#include "vnni_products.h"

int qe_avx512_products(const qe_matmul *m, uint32_t first, uint32_t count)
{
    return products_of(m, first, count);
}

#if defined(__clang__) && !defined(QE_EMULATE_VNNI)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#else
typedef int qe_no_avx512_products;
#endif
