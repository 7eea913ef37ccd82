/* roofline.c - the limits of this machine now: streaming read bandwidth over 1 GiB, and int8
 * dot products a second, on so many threads. Prints one JSON object. Not a benchmark of any
 * engine. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_THREADS = 64 };
static const size_t BYTES = (size_t)1 << 30;

typedef struct {
    const char *data;
    size_t bytes;
    double dots;
    pthread_barrier_t *barrier;
} job;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

__attribute__((target("avx2"))) static void read_all(const char *p, size_t n)
{
    __m256i s[8];
    memset(s, 0, sizeof s);
    for (size_t i = 0; i < n; i += 256)
        for (int k = 0; k < 8; k++)
            s[k] = _mm256_xor_si256(s[k], _mm256_load_si256((const void *)(p + i + 32 * k)));
    for (int k = 0; k < 8; k++)
        __asm__ volatile("" : : "x"(s[k]));
}

__attribute__((target("avx512f,avx512vnni"))) static double dots_avx512(void)
{
    __m512i c[16], x = _mm512_set1_epi32(3);
    for (int k = 0; k < 16; k++)
        c[k] = _mm512_set1_epi32(k);
    for (int i = 0; i < 20000000; i++) {
#pragma GCC unroll 16
        for (int k = 0; k < 16; k++)
            c[k] = _mm512_dpbusd_epi32(c[k], x, x);
        __asm__ volatile("" : : "v"(c[0]), "v"(c[7]));
    }
    for (int k = 0; k < 16; k++)
        __asm__ volatile("" : : "v"(c[k]));
    return 20e6 * 16 * 64;
}

__attribute__((target("avx2"))) static double dots_avx2(void)
{
    __m256i c[12], x = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 12
    for (int k = 0; k < 12; k++)
        c[k] = _mm256_set1_epi32(k); /* or the compiler makes one sum of twelve equal ones */
    for (int i = 0; i < 10000000; i++)
#pragma GCC unroll 12
        for (int k = 0; k < 12; k++)
            c[k] = _mm256_add_epi32(
                c[k],
                _mm256_madd_epi16(_mm256_maddubs_epi16(x, _mm256_xor_si256(x, c[k])), ones));
#pragma GCC unroll 12
    for (int k = 0; k < 12; k++)
        __asm__ volatile("" : : "x"(c[k]));
    return 10e6 * 12 * 32;
}

static void *run_read(void *argument)
{
    job *j = argument;
    pthread_barrier_wait(j->barrier);
    read_all(j->data, j->bytes);
    return NULL;
}

static void *run_dots(void *argument)
{
    job *j = argument;
    pthread_barrier_wait(j->barrier);
    j->dots = __builtin_cpu_supports("avx512vnni") ? dots_avx512() : dots_avx2();
    return NULL;
}

static double timed(void *(*work)(void *), job *jobs, int threads, pthread_barrier_t *barrier)
{
    pthread_t thread[MAX_THREADS];
    pthread_barrier_init(barrier, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++)
        pthread_create(&thread[i], NULL, work, &jobs[i]);
    pthread_barrier_wait(barrier);
    const double began = now();
    for (int i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    return now() - began;
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    if (threads < 1 || threads > MAX_THREADS)
        return 2;
    char *data = aligned_alloc(1 << 21, BYTES);
    pthread_barrier_t barrier;
    job jobs[MAX_THREADS];
    if (!data)
        return 1;
    memset(data, 1, BYTES);
    for (int i = 0; i < threads; i++)
        jobs[i] = (job){.data = data + BYTES / (size_t)threads / 4096 * 4096 * (size_t)i,
                        .bytes = BYTES / (size_t)threads / 4096 * 4096,
                        .barrier = &barrier};
    double bandwidth = 0, dots = 0;
    for (int round = 0; round < 5; round++) {
        const double bytes = (double)jobs[0].bytes * threads;
        const double b = bytes / timed(run_read, jobs, threads, &barrier);
        bandwidth = b > bandwidth ? b : bandwidth;
    }
    for (int round = 0; round < 3; round++) {
        const double seconds = timed(run_dots, jobs, threads, &barrier);
        double sum = 0;
        for (int i = 0; i < threads; i++)
            sum += jobs[i].dots;
        dots = sum / seconds > dots ? sum / seconds : dots;
    }
    printf("{\"threads\": %d, \"read_gb_s\": %.2f, \"dot_gmac_s\": %.1f}\n", threads,
           bandwidth / 1e9, dots / 1e9);
    return 0;
}
