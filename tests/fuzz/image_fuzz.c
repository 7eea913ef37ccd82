/* image_fuzz.c - mutates an image, renews its hashes so that the damage reaches the tables, the
 * tokenizer and the forward pass, and uses whatever still opens. Built with ASan and UBSan; the
 * image, the arena and every buffer end where their memory ends. Any kernel set must agree with
 * portable on any bytes.
 *
 *   image_fuzz IMAGE FIRST_SEED COUNT [golden]      golden: damage to that section only
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "host/host.h"
#include "image_fuzz.h"

enum { CASE_SECONDS = 20 };

/* Read by the sanitizers: end in abort(), where the seed is named. */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

const char *__asan_default_options(void)
{
    return "abort_on_error=1:handle_abort=0";
}

const char *__ubsan_default_options(void)
{
    return "abort_on_error=1:print_stacktrace=1";
}

const uint8_t *whole;
uint64_t whole_bytes;
uint64_t seed;
static uint64_t state;
static unsigned long opened, refused;
unsigned long encoded, evaluated, compared, golden, golden_refused;

static void name_the_seed(int number)
{
    fprintf(stderr, "image_fuzz: %s at seed %llu\n", number == SIGALRM ? "too slow" : "failed",
            (unsigned long long)seed);
    _exit(3);
}

void require(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "image_fuzz: %s\n", what);
    abort();
}

uint64_t draw(void) /* splitmix64 */
{
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

uint64_t below(uint64_t n)
{
    return draw() % n;
}

int chance(unsigned percent)
{
    return below(100) < percent;
}

void *exactly(size_t bytes)
{
    void *p = NULL;
    require(posix_memalign(&p, 64, bytes ? bytes : 1) == 0, "no memory");
    return p;
}

void put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}

void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

uint64_t place(uint32_t type, uint64_t *bytes)
{
    const uint8_t *entry = whole + qe_load64(whole + 32);
    for (uint32_t n = qe_load32(whole + 24); n; n--, entry += ENTRY) {
        if (qe_load32(entry) == type) {
            *bytes = qe_load64(entry + 16);
            return qe_load64(entry + 8);
        }
    }
    *bytes = 0;
    return 0;
}

static void run_case(int only_golden)
{
    uint64_t size;
    qe_image image;
    state = seed * 0xD1B54A32D192ED03u + 1;
    uint8_t *bytes = damaged(only_golden, &size);
    const int error = qe_image_open(&image, bytes, size);
    if (error) {
        refused++;
        require(error >= QE_ERR_KERNELS && error < 0, "an error that is none");
        free(bytes);
        return;
    }
    opened++;
    for (uint32_t at = 0;;) {
        const int32_t n = qe_image_verify(&image, at, 3);
        if (n <= 0)
            break;
        at += (uint32_t)n;
    }
    for (uint32_t type = 0; type < 12; type++) {
        uint64_t n, sum = 0;
        const uint8_t *p = qe_image_section(&image, type, &n);
        for (uint64_t i = 0; p && i < n; i += 61)
            sum += p[i];
        require(sum < UINT64_MAX, "sum");
    }
    read_golden(&image);
    if (only_golden) {
        free(bytes);
        return;
    }
    decode_some(&image);
    encode_some(&image);
    evaluate_some(&image);
    free(bytes);
}

int main(int count, char **arguments)
{
    if (count != 4 && (count != 5 || strcmp(arguments[4], "golden") != 0)) {
        fprintf(stderr, "usage: image_fuzz IMAGE FIRST_SEED COUNT [golden]\n");
        return 2;
    }
    if (qe_host_map(arguments[1], &whole, &whole_bytes) != 0) {
        fprintf(stderr, "image_fuzz: cannot read %s\n", arguments[1]);
        return 2;
    }
    const uint64_t first = strtoull(arguments[2], NULL, 10),
                   cases = strtoull(arguments[3], NULL, 10);
    signal(SIGABRT, name_the_seed);
    signal(SIGALRM, name_the_seed);
    qe_host_float_enter();
    for (seed = first; seed < first + cases; seed++) {
        alarm(CASE_SECONDS);
        run_case(count == 5);
    }
    alarm(0);
    printf("{\"cases\": %llu, \"refused\": %lu, \"opened\": %lu, \"encoded\": %lu, "
           "\"evaluated\": %lu, "
           "\"compared\": %lu, \"golden\": %lu, \"golden_refused\": %lu}\n",
           (unsigned long long)cases, refused, opened, encoded, evaluated, compared, golden,
           golden_refused);
    qe_host_unmap(whole, whole_bytes);
    return 0;
}
