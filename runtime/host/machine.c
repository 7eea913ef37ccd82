/* machine.c - finds CPU features, takes the arena's pages, and holds the floating-point
 * environment still. */
#define _GNU_SOURCE
#include "host.h"

#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#endif
#if (defined(__aarch64__) || defined(__arm__)) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#if defined(__x86_64__)
/* QE_HAS_AVX2, QE_HAS_AVXVNNI and QE_HAS_AVX512: what the CPU has and the system saves (Intel's
 * manual, volume 1, 14.3 and 15.2). Compilers ask the same for __builtin_cpu_supports, out of a
 * variable that zig's run-time library lacks. */
static uint32_t vectors(void)
{
    const unsigned xsave_avx_f16c = 7u << 27, avx2 = 1u << 5, vnni = 1u << 11,
                   avxvnni = 1u << 4;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    unsigned a, b, c, d, saved, high;
    uint32_t found = QE_HAS_AVX2;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & xsave_avx_f16c) != xsave_avx_f16c)
        return 0;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if ((saved & 0x06) != 0x06 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & avx2))
        return 0;
    if ((saved & 0xE6) == 0xE6 && (b & avx512) == avx512 && (c & vnni))
        found |= QE_HAS_AVX512;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & avxvnni))
        found |= QE_HAS_AVXVNNI;
    return found;
}

/* Whether the CPU has AMX's int8 tiles, and Linux lets this process use them: their state is
 * large, so it must be asked for once a process (arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA).
 */
static int amx_granted(void)
{
#if defined(__linux__)
    const unsigned tile_and_int8 = 3u << 24;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tile_and_int8) != tile_and_int8)
        return 0;
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
    return 0;
#endif
}
#endif

uint32_t qe_host_features(void)
{
    uint32_t features = 0;
#if defined(__x86_64__)
    features |= vectors();
    if (amx_granted())
        features |= QE_HAS_AMX;
#elif defined(__aarch64__)
    features |= QE_HAS_NEON;
#if defined(__linux__)
    if (getauxval(AT_HWCAP) & 1ul << 20) /* HWCAP_ASIMDDP */
        features |= QE_HAS_DOTPROD;
    if (getauxval(AT_HWCAP2) & 1ul << 13) /* HWCAP2_I8MM */
        features |= QE_HAS_I8MM;
#elif defined(__APPLE__)
    features |= QE_HAS_DOTPROD; /* every Apple core since the A11 */
    int has = 0;
    size_t bytes = sizeof has;
    if (sysctlbyname("hw.optional.arm.FEAT_I8MM", &has, &bytes, NULL, 0) == 0 && has)
        features |= QE_HAS_I8MM;
#endif
#elif defined(__arm__) && defined(__linux__)
    const unsigned long needed = 1ul << 12 | 1ul << 16; /* HWCAP_NEON, HWCAP_VFPv4 */
    if ((getauxval(AT_HWCAP) & needed) == needed)
        features |= QE_HAS_NEON;
#endif
    return features;
}

void *qe_host_arena(uint64_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    void *p =
        mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void qe_host_arena_free(void *arena, uint64_t bytes)
{
    munmap(arena, (size_t)bytes);
}

uint64_t qe_host_float_enter(void)
{
#if defined(__x86_64__)
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(0x1F80); /* round to nearest, no flush, exceptions masked */
    return saved;
#elif defined(__aarch64__)
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return saved;
#elif defined(__arm__) && defined(__ARM_PCS_VFP)
    uint32_t saved;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(saved));
    __asm__ volatile("vmsr fpscr, %0" : : "r"(0));
    return saved;
#else
    return 0;
#endif
}

void qe_host_float_leave(uint64_t saved)
{
#if defined(__x86_64__)
    _mm_setcsr((unsigned)saved);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(saved));
#elif defined(__arm__) && defined(__ARM_PCS_VFP)
    __asm__ volatile("vmsr fpscr, %0" : : "r"((uint32_t)saved));
#else
    (void)saved;
#endif
}
