/* sampler_check.c [--time] VOCABULARY BATCH - the sampler against a sort: every chain of
 * filters on logits of many kinds, for every kernel set that runs here. BATCH makes the arena's
 * scratch, in which the sampler keeps lists, large or small. One line of JSON: how many draws
 * were compared; with --time instead the median microseconds of a draw with the fastest set, by
 * logits and chain. Exit: 0, 1 when a draw differs or there is no room. */
#define _GNU_SOURCE
#include "../../runtime/engine/session.h"
#include "../../runtime/host/host.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct {
    const char *name;
    float temperature, top_p, min_p;
    uint32_t top_k;
} chain;

static const chain CHAINS[] = {
    {"none", 1, 1, 0, 0},
    {"temperature 0.8", 0.8f, 1, 0, 0},
    {"top-k 1", 0.8f, 1, 0, 1},
    {"top-k 40", 0.8f, 1, 0, 40},
    {"top-k 129", 1, 1, 0, 129},
    {"top-k of a third", 0.8f, 1, 0, 0xFFFFFFFF},
    {"top-p 0", 0.8f, 0, 0, 0},
    {"top-p 0.01", 0.8f, 0.01f, 0, 0},
    {"top-p 0.5", 1, 0.5f, 0, 0},
    {"top-p 0.95", 0.8f, 0.95f, 0, 0},
    {"top-p 0.9999", 1.5f, 0.9999f, 0, 0},
    {"min-p 0.05", 0.8f, 1, 0.05f, 0},
    {"min-p 1", 0.8f, 1, 1, 0},
    {"top-k 40, top-p 0.95, min-p 0.05", 0.8f, 0.95f, 0.05f, 40},
    {"top-k of a third, top-p 0.9, min-p 0.001", 0.8f, 0.9f, 0.001f, 0xFFFFFFFF},
};
static const char *const KINDS[] = {"flat",  "normal", "peaked", "steps",
                                    "equal", "far",    "ramp",   "same weights"};
enum {
    CHAIN_COUNT = sizeof CHAINS / sizeof *CHAINS,
    KIND_COUNT = sizeof KINDS / sizeof *KINDS
};

static uint64_t state = 7;

static double uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) * 0x1p-53;
}

static void fill(float *l, uint32_t n, int kind)
{
    for (uint32_t i = 0; i < n; i++) {
        const double u = uniform(), v = sqrt(-2 * log(u + 1e-12)) * cos(6.2831853 * uniform());
        const double of[] = {u * 0.1,
                             v,
                             v * 5,
                             floor(u * 6),
                             1,
                             i ? u * -1 - 30 : 0,
                             -20.0 * i / n,
                             10 + floor(u * 9) * 0x1p-20};
        l[i] = (float)of[kind];
    }
}

/* ---- the page, by a sort ---- */

typedef struct {
    uint32_t id, key;
} entry;

static int by_key(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    return x->key != y->key ? (x->key < y->key) - (x->key > y->key)
                            : (x->id > y->id) - (x->id < y->id);
}

static uint32_t ordered(float x)
{
    const uint32_t u = qe_bits(x);
    return u >> 31 ? ~u : u | 0x80000000u;
}

/* a * b / 2^shift, of all 128 bits: bit by bit, for machines without such integers. */
static uint64_t product(uint64_t a, uint64_t b, int shift)
{
    uint64_t high = 0, low = 0;
    for (int bit = 63; bit >= 0; bit--) {
        high = high << 1 | low >> 63;
        low <<= 1;
        if (b >> bit & 1) {
            low += a;
            high += low < a;
        }
    }
    return shift == 64 ? high : high << (64 - shift) | low >> shift;
}

static uint32_t expected(const float *l, uint32_t n, const chain *c, uint32_t k, uint64_t seed,
                         entry *order, uint32_t *w, uint32_t *hot)
{
    uint32_t best = 0;
    for (uint32_t i = 0; i < n; i++)
        best = l[i] > l[best] ? i : best;
    qe_portable.weights(l, n, l[best], 1, 0, w);
    qe_portable.weights(l, n, l[best], 1 / c->temperature, 0, hot);
    for (uint32_t i = 0; i < n; i++)
        order[i] = (entry){i, ordered(l[i])};
    qsort(order, n, sizeof *order, by_key);
    for (uint32_t i = k ? k : n; i < n; i++)
        w[order[i].id] = 0;
    uint64_t whole = 0;
    if (c->top_p < 1) {
        for (uint32_t i = 0; i < n; i++)
            whole += w[i];
        const uint64_t mass = product((uint32_t)(c->top_p * 0x1p24f), whole, 24);
        uint64_t sum = 0;
        for (uint32_t i = 0; i < n; i++)
            order[i] = (entry){i, w[i]};
        qsort(order, n, sizeof *order, by_key);
        for (uint32_t i = 0; i < n; i++) {
            if (sum >= mass)
                w[order[i].id] = 0;
            sum += order[i].key;
        }
    }
    whole = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!w[i] || w[i] < (uint32_t)(c->min_p * 0x1p30f))
            hot[i] = 0;
        whole += hot[i];
    }
    uint64_t z = seed + 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    uint64_t left = product(z ^ z >> 31, whole, 64);
    for (uint32_t i = 0; i < n; i++) {
        if (left < hot[i])
            return i;
        left -= hot[i];
    }
    return best;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int32_t sample(qe_session *s, const float *l, uint32_t n, const chain *c, uint32_t k,
                      uint64_t seed)
{
    qe_sampler o = {.temperature = c->temperature,
                    .top_p = c->top_p,
                    .min_p = c->min_p,
                    .repeat_penalty = 1,
                    .top_k = k,
                    .random = seed};
    memcpy(qe_floats(s, AT_LOGITS), l, n * sizeof *l);
    return qe_session_sample(s, &o);
}

/* Whether logits that are not finite are refused: after an evaluation that said so, and from
 * the penalty on that made them so. */
static int refuses(qe_session *s, const float *l, uint32_t n, const chain *c, uint32_t k)
{
    qe_sampler penalty = {.temperature = 0, .top_p = 1, .repeat_penalty = 1e-6f};
    s->finite = 0;
    int good = sample(s, l, n, c, k, 1) == QE_ERR_NUMERIC;
    s->finite = 1;
    good &= sample(s, l, n, c, k, 1) >= 0;
    ((uint32_t *)qe_at(s, AT_HISTORY))[0] = n - 1;
    qe_floats(s, AT_LOGITS)[n - 1] = 1e35f;
    good &= qe_session_sample(s, &penalty) == QE_ERR_NUMERIC;
    penalty.repeat_penalty = 1;
    good &= qe_session_sample(s, &penalty) == QE_ERR_NUMERIC;
    s->finite = 1;
    return good;
}

static double median_us(qe_session *s, const float *l, uint32_t n, const chain *c, uint32_t k)
{
    double took[51];
    for (int i = 0; i < 51; i++) {
        qe_sampler o = {.temperature = c->temperature,
                        .top_p = c->top_p,
                        .min_p = c->min_p,
                        .repeat_penalty = 1.1f,
                        .top_k = k,
                        .random = (uint64_t)i};
        memcpy(qe_floats(s, AT_LOGITS), l, n * sizeof *l);
        const double began = now();
        qe_session_sample(s, &o);
        took[i] = now() - began;
    }
    qsort(took, 51, sizeof *took, by_size);
    return took[25];
}

int main(int argc, char **argv)
{
    const int timed = argc == 4;
    if (argc < 3)
        return 1;
    const uint32_t n = (uint32_t)strtoul(argv[argc - 2], NULL, 10);
    qe_image image = {.config = {.layers = 1,
                                 .dim = 32,
                                 .ffn = 32,
                                 .heads = 1,
                                 .kv_heads = 1,
                                 .head_size = 32,
                                 .vocab_size = n},
                      .rope_context = 32};
    const qe_session_options options = {
        .context = 32, .batch = (uint32_t)strtoul(argv[argc - 1], NULL, 10), .threads = 1};
    const uint64_t bytes = qe_session_size(&image.config, &options);
    void *arena = qe_host_arena(bytes);
    float *l = malloc(n * sizeof *l);
    uint32_t *w = malloc(2 * n * sizeof *w);
    entry *order = malloc(n * sizeof *order);
    unsigned long draws = 0;
    qe_session s;
    if (!n || !bytes || !arena || !l || !w || !order)
        return 1;
    printf("{");
    for (int kind = 0; kind < KIND_COUNT; kind++) {
        fill(l, n, kind);
        for (int c = 0; c < CHAIN_COUNT; c++) {
            const chain *chosen = &CHAINS[c];
            const uint32_t k = chosen->top_k == 0xFFFFFFFF ? n / 3 + 1 : chosen->top_k;
            int usable;
            for (uint32_t i = 0; qe_kernels_list(i, qe_host_features(), &usable); i++) {
                const char *name = qe_kernels_list(i, qe_host_features(), &usable);
                if (!usable)
                    continue;
                if (qe_session_init(&s, &image, &options,
                                    qe_kernels_find(name, qe_host_features()), NULL, arena,
                                    bytes))
                    return 1;
                s.position = s.finite = 1;
                if (timed) {
                    printf("%s\"%s: %s\": %.1f", draws++ ? ", " : "", KINDS[kind], chosen->name,
                           median_us(&s, l, n, chosen, k));
                    break;
                }
                if (!refuses(&s, l, n, chosen, k)) {
                    fprintf(stderr, "%s, %s: drawn from logits that are not finite\n", name,
                            chosen->name);
                    return 1;
                }
                for (uint64_t seed = 0; seed < 8; seed++, draws++) {
                    const int32_t found = sample(&s, l, n, chosen, k, seed);
                    const uint32_t right = expected(l, n, chosen, k, seed, order, w, w + n);
                    if (found != (int32_t)right) {
                        fprintf(stderr, "%s, %s, %s, seed %u: %d, not %u\n", name, KINDS[kind],
                                chosen->name, (unsigned)seed, (int)found, (unsigned)right);
                        return 1;
                    }
                }
            }
        }
    }
    printf(timed ? "}\n" : "\"draws\": %lu}\n", draws);
    return 0;
}
