/* vnni_emulated.h - what vnni_products.h asks of its processor, lane by lane, so that kernels
 * for AVX-512 and AVX-VNNI are checked on machines without (-DQE_EMULATE_VNNI). Intel's manual,
 * VPDPBUSD, VPMADDWD, VPSHUFB, VCVTDQ2PS. */
typedef int32_t vi_emulated __attribute__((vector_size(VB)));
typedef int8_t emulated_bytes __attribute__((vector_size(VB)));
typedef int16_t emulated_halves __attribute__((vector_size(VB)));

static __attribute__((noinline)) vi_emulated emulated_dot(vi_emulated sum, vi_emulated u,
                                                          vi_emulated s)
{
    const emulated_bytes a = (emulated_bytes)u, b = (emulated_bytes)s;
    for (int i = 0; i < VB; i++)
        sum[i / 4] += (uint8_t)a[i] * b[i];
    return sum;
}

static __attribute__((noinline)) vi_emulated emulated_pairs(vi_emulated u, vi_emulated v)
{
    const emulated_halves a = (emulated_halves)u, b = (emulated_halves)v;
    vi_emulated sum = {0};
    for (int i = 0; i < VB / 2; i++)
        sum[i / 2] += a[i] * b[i];
    return sum;
}

static __attribute__((noinline)) emulated_bytes emulated_lookup(const int8_t *table,
                                                                emulated_bytes at)
{
    for (int i = 0; i < VB; i++)
        at[i] = table[at[i]];
    return at;
}

static vi_emulated emulated_rows(const uint8_t *p)
{
    vi_emulated v;
    for (int i = 0; i < VB / 4; i++)
        v[i] = p[i];
    return v;
}

#define rows_of emulated_rows
#define dot emulated_dot
#define pairs emulated_pairs
#define lookup(table, at) ((vb)emulated_lookup(table, (emulated_bytes)(at)))
#define floats_of(v) __builtin_convertvector(v, vf)
