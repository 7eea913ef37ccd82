/* kernel_check.c - every kernel set that this machine can run against portable.c, entry by
 * entry, bit for bit (NaN equals NaN), on data made to hurt.
 *
 *   kernel_check [--quick]
 *
 * Prints one line of JSON: the sets, how many values were compared, and a digest of what
 * portable gave, which must be the same on every machine. Exits 1 at the first difference and
 * says where. */
#define _GNU_SOURCE
#include "kernel_check.h"

#include "../../runtime/host/host.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

const qe_kernels *sets[MOST_SETS];
uint32_t set_count;
uint64_t compared;
qe_sha256 digest;
int quick;

static char where[256];
static uint64_t state = 20240607;

void describe(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(where, sizeof where, format, list);
    va_end(list);
}

static uint64_t next(void) /* splitmix64 */
{
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

uint32_t pick(uint32_t below)
{
    return (uint32_t)((next() >> 32) * below >> 32);
}

float ordinary(void)
{
    return (float)((int32_t)pick(1u << 24) - (1 << 23)) * 0x1p-20f; /* exact */
}

float extreme(void)
{
    static const uint32_t edges[] = {0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF,
                                     0x00800000, 0x0F7FFFFF, 0x0F800000, 0x0F800001, 0x7F7FFFFF,
                                     0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001,
                                     0x7F800001, 0x42317218, 0xC2317218, 0xC2317217, 0x42317219,
                                     0x3F800000, 0xBF800000};
    if (pick(2))
        return qe_float(edges[pick(sizeof edges / sizeof edges[0])]);
    return qe_float((uint32_t)next());
}

uint16_t scale_half(int kind)
{
    static const uint16_t edges[] = {0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF,
                                     0x7C00, 0xFC00, 0x7E00, 0x7C01, 0x3C00, 0x1400};
    if (kind == EXTREME && pick(8) == 0)
        return edges[pick(sizeof edges / sizeof edges[0])];
    if (pick(8) == 0)
        return (uint16_t)pick(0x0400); /* zero and subnormals */
    return (uint16_t)(pick(2) << 15 |
                      (0x1800 + pick(0x2000))); /* about 2^-9 .. 2^-1, either sign */
}

static void fill_block(float *x, uint32_t n, int kind)
{
    const uint32_t character = pick(kind == EXTREME ? 10 : 5);
    const float level = qe_float((100 + pick(60)) << 23);
    for (uint32_t i = 0; i < n; i++) {
        switch (character) {
        case 0: x[i] = ordinary(); break;
        case 1: x[i] = ordinary() * level; break;
        case 2: x[i] = pick(2) ? 0.0f : -0.0f; break;
        case 3:
            x[i] = (float)((int32_t)pick(255) - 127) + 0.5f * (float)pick(2);
            break;                                    /* ties */
        case 4: x[i] = pick(2) ? 5.5f : -5.5f; break; /* all ±127 */
        case 5:
            x[i] = qe_float(pick(2) << 31 | (30 + pick(2)) << 23 | pick(1u << 23));
            break; /* 2^-97 .. 2^-95 */
        case 6:
            x[i] = qe_float(pick(2) << 31 | (0x0F800000 - 2 + pick(4)));
            break; /* 2^-96 itself */
        case 7:
            x[i] = qe_float(pick(2) << 31 | pick(0x01000000));
            break; /* subnormals and the next */
        case 8:
            x[i] = qe_float(pick(2) << 31 | 0x7E800000 | pick(0x00FFFFFF));
            break; /* huge */
        default: x[i] = pick(8) ? ordinary() : extreme(); break;
        }
    }
    if (character == 3)
        x[pick(n)] = 127.0f;
}

void fill_row(float *x, uint32_t n, int kind)
{
    for (uint32_t i = 0; i < n; i += 32)
        fill_block(x + i, n - i < 32 ? n - i : 32, kind);
}

void fill_act(qe_act *act, uint32_t rows, uint32_t columns, int kind)
{
    const uint32_t blocks = qe_ceil(columns, 32) / 32;
    for (uint32_t b = 0; b < rows * blocks; b++) {
        const size_t at = (size_t)(b / blocks) * act->stride / 32 + b % blocks;
        const uint32_t character = pick(6), width = columns - b % blocks * 32;
        act->s[2 * at] = act->s[2 * at + 1] = 0;
        for (uint32_t i = 0; i < 32; i++) {
            int32_t q = (int32_t)pick(255) - 127;
            q = character == 0 ? 127 : character == 1 ? -127 : character == 2 ? 0 : q;
            q = i < width ? q : 0;
            act->q[at * 32 + i] = (int8_t)q;
            act->s[2 * at + i / 16] += (int16_t)q;
        }
        act->d[at] = qe_float((97 + pick(30)) << 23 | pick(1u << 23));
        if (character == 2)
            act->d[at] = 0.0f;
        if (kind == EXTREME && pick(8) == 0)
            act->d[at] = pick(2) ? qe_float(QE_NAN_BITS)
                                 : qe_float((24 + pick(220)) << 23 | pick(1u << 23));
    }
}

/* Room whose end may not be passed, where there is a system to watch over it. */
static uint8_t *watched(size_t room)
{
#if defined(__unix__) || defined(__APPLE__)
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *p =
        mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED && mprotect(p + room, page, PROT_NONE) == 0)
        return p;
#else
    uint8_t *p = malloc(room);
    if (p)
        return p;
#endif
    printf("kernel_check: no memory\n");
    exit(1);
}

void *guarded(uint32_t slot, size_t bytes)
{
    static uint8_t *ends[GUARDED];
    const size_t room = 1u << 20;
    if (!ends[slot])
        ends[slot] = watched(room) + room;
    if (bytes > room) {
        printf("kernel_check: %zu bytes asked of a slot of %zu\n", bytes, room);
        exit(1);
    }
    return ends[slot] - bytes;
}

static uint32_t canonical(float x)
{
    const uint32_t bits = qe_bits(x);
    return (bits & 0x7FFFFFFFu) > QE_INF_BITS ? QE_NAN_BITS : bits;
}

void same_floats(const char *what, const char *set, const float *truth, const float *found,
                 size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (canonical(truth[i]) == canonical(found[i]))
            continue;
        printf("kernel_check: %s of %s differs at %zu of %zu: portable %08x, found %08x; %s\n",
               what, set, i, n, (unsigned)qe_bits(truth[i]), (unsigned)qe_bits(found[i]),
               where);
        exit(1);
    }
    compared += n;
}

void same_bytes(const char *what, const char *set, const void *truth, const void *found,
                size_t n)
{
    const uint8_t *a = truth, *b = found;
    for (size_t i = 0; i < n; i++) {
        if (a[i] == b[i])
            continue;
        printf("kernel_check: %s of %s differs at byte %zu of %zu: portable %02x, found %02x; "
               "%s\n",
               what, set, i, n, a[i], b[i], where);
        exit(1);
    }
    compared += n;
}

void record(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t bits = canonical(x[i]);
        qe_sha256_update(&digest, &bits, 4);
    }
}

void record_bytes(const void *x, size_t n)
{
    qe_sha256_update(&digest, x, n);
}

#if defined(QE_EMULATE_VNNI)
#include "../../runtime/engine/kernels/amx.h"
#include "../../runtime/engine/kernels/avx2_products.h"

/* avx2 with the products of another set, of which the instructions are emulated. */
static qe_kernels avx512_emulated, avxvnni_emulated;

static void matmul_avx512(const qe_matmul *m, uint32_t first, uint32_t count)
{
    if (m->layout != 16 || !qe_avx512_products(m, first, count))
        qe_avx2.matmul(m, first, count);
}

static void add_emulated(void)
{
    avx512_emulated = qe_avx2;
    avx512_emulated.name = "avx512 emulated";
    avx512_emulated.matmul = matmul_avx512;
    avxvnni_emulated = qe_avxvnni;
    avxvnni_emulated.name = "avxvnni emulated";
    sets[set_count++] = &avx512_emulated;
    sets[set_count++] = &avxvnni_emulated;
}
#else
static void add_emulated(void)
{
}
#endif

int main(int argc, char **argv)
{
    const uint32_t features = qe_host_features();
    const char *name;
    int usable;
    uint8_t bytes[32];
    quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    qe_host_float_enter();
    qe_sha256_init(&digest);
    for (uint32_t i = 0; (name = qe_kernels_list(i, features, &usable)) != NULL; i++)
        if (usable && qe_kernels_find(name, features) != &qe_portable)
            sets[set_count++] = qe_kernels_find(name, features);
    add_emulated();
    check_rows();
    check_attention();
    check_matmul();
    check_sampling();
    qe_sha256_digest(&digest, bytes);
    printf("{\"sets\": [");
    for (uint32_t i = 0; i < set_count; i++)
        printf("%s\"%s\"", i ? ", " : "", sets[i]->name);
    printf("], \"comparisons\": %llu, \"digest\": \"", (unsigned long long)compared);
    for (int i = 0; i < 32; i++)
        printf("%02x", bytes[i]);
    printf("\"}\n");
    return 0;
}
