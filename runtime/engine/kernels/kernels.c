/* kernels.c - which kernel sets this build holds, and which of them a machine may run. */
#include "kernels.h"

static const struct {
    const qe_kernels *set;
    uint32_t needs;
} sets[] = {
/* the fastest first */
#if defined(QE_PORTABLE_ONLY) /* to measure against, and for a firmware that is a process */
#elif defined(__x86_64__)
#if defined(__linux__)
    {&qe_amx, QE_HAS_AVX2 | QE_HAS_AVX512 | QE_HAS_AMX},
#endif
    {&qe_avx512, QE_HAS_AVX2 | QE_HAS_AVX512},
    {&qe_avxvnni, QE_HAS_AVX2 | QE_HAS_AVXVNNI},
    {&qe_avx2, QE_HAS_AVX2},
#elif defined(__aarch64__)
    {&qe_i8mm, QE_HAS_NEON | QE_HAS_DOTPROD | QE_HAS_I8MM},
    {&qe_dotprod, QE_HAS_NEON | QE_HAS_DOTPROD},
    {&qe_neon, QE_HAS_NEON},
#elif defined(__arm__) && defined(__linux__) && defined(__ARM_PCS_VFP) &&                      \
    (!defined(__clang__) || defined(QE_WITH_ARMV7))
    {&qe_armv7, QE_HAS_NEON},
#endif
#if defined(QE_PORTABLE_ONLY)
#elif defined(__arm__) && defined(__ARM_FEATURE_MVE)
    {&qe_mve, 0},
#elif defined(__arm__) && defined(__ARM_FEATURE_SIMD32)
    {&qe_dsp, 0},
#elif defined(__thumb__) && !defined(__linux__)
    {&qe_thumb, 0},
#elif defined(QE_WITH_THUMB)
    {&qe_thumb, 0},
#endif
    {&qe_portable, 0},
};

const char *qe_kernels_list(uint32_t i, uint32_t features, int *usable)
{
    if (i >= sizeof sets / sizeof sets[0])
        return NULL;
    *usable = (sets[i].needs & ~features) == 0;
    return sets[i].set->name;
}

const void *qe_kernels_find(const char *name, uint32_t features)
{
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
        if ((sets[i].needs & ~features) == 0 && (!name || strcmp(name, sets[i].set->name) == 0))
            return sets[i].set;
    return NULL;
}

const char *qe_kernels_name(const void *kernels)
{
    return ((const qe_kernels *)kernels)->name;
}
