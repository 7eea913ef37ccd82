/* engine_check.c - the engine, the host's pool and a main: runs an image greedily (or by the
 * sampler) and prints one line of JSON a run, so that the same image can be run for any machine
 * and compared.
 *
 *   engine_check IMAGE --prompt 1,2,3 [--tokens N] [--batch 1,3,64] [--threads 1,2] [--kernels
 * all|NAME]
 *                [--context N] [--all-logits] [--sample T,k,p,m,r,seed] [--pretend]
 *   engine_check IMAGE --size CONTEXT,BATCH,THREADS,KV [--size …]
 *
 * Lists give one run for each combination. Every run is given exactly the arena that
 * qe_session_size asks for, between two canaries, after one byte less was refused. Exit: 0; 1
 * usage or a broken promise; 3 no such kernel set. */
#define _GNU_SOURCE
#include "../../runtime/host/host.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST = 64, CANARY = 4096, PATTERN = 0xA5 };

typedef struct {
    const char *image, *kernels;
    uint32_t prompt[512], prompt_tokens, tokens, context, features;
    uint32_t batches[MOST], batch_count, threads[MOST], thread_count;
    uint32_t sizes[MOST][4], size_count;
    int all_logits, pretend;
    qe_sampler sampler;
} arguments;

static void fail(const char *what, int error)
{
    fprintf(stderr, "engine_check: %s: %s\n", what, qe_error_text(error));
    exit(error == QE_ERR_KERNELS ? 3 : 1);
}

static uint32_t numbers(const char *text, uint32_t *list, uint32_t most)
{
    uint32_t count = 0;
    while (*text && count < most) {
        char *end;
        list[count++] = (uint32_t)strtoul(text, &end, 10);
        if (end == text)
            fail("not a list of numbers", QE_ERR_USAGE);
        text = *end == ',' ? end + 1 : end;
    }
    return count;
}

static void parse_sampler(const char *text, qe_sampler *sampler)
{
    double value[5];
    char *end = (char *)(uintptr_t)text;
    for (int i = 0; i < 5; i++, end += *end == ',')
        value[i] = strtod(end, &end);
    *sampler = (qe_sampler){.temperature = (float)value[0],
                            .top_k = (uint32_t)value[1],
                            .top_p = (float)value[2],
                            .min_p = (float)value[3],
                            .repeat_penalty = (float)value[4],
                            .random = strtoull(end, NULL, 10)};
}

static arguments parse(int argc, char **argv)
{
    arguments a = {.tokens = 4, .sampler = {.top_p = 1.0f, .repeat_penalty = 1.0f}};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(name, "--all-logits") == 0)
            a.all_logits = 1;
        else if (strcmp(name, "--pretend") ==
                 0) /* claim every feature: what a wrong detection would do */
            a.pretend = 1;
        else if (name[0] != '-')
            a.image = name;
        else if (i++, strcmp(name, "--prompt") == 0)
            a.prompt_tokens = numbers(value, a.prompt, 512);
        else if (strcmp(name, "--tokens") == 0)
            numbers(value, &a.tokens, 1);
        else if (strcmp(name, "--context") == 0)
            numbers(value, &a.context, 1);
        else if (strcmp(name, "--batch") == 0)
            a.batch_count = numbers(value, a.batches, MOST);
        else if (strcmp(name, "--threads") == 0)
            a.thread_count = numbers(value, a.threads, MOST);
        else if (strcmp(name, "--kernels") == 0)
            a.kernels = value;
        else if (strcmp(name, "--sample") == 0)
            parse_sampler(value, &a.sampler);
        else if (strcmp(name, "--size") == 0 && a.size_count < MOST)
            numbers(value, a.sizes[a.size_count++], 4);
        else
            fail(name, QE_ERR_USAGE);
    }
    a.features = a.pretend ? UINT32_MAX : qe_host_features();
    return a;
}

/* Exactly `bytes`, aligned to 64, between canaries. */
static uint8_t *new_arena(uint64_t bytes)
{
    void *memory;
    if (bytes > SIZE_MAX / 2 || posix_memalign(&memory, 4096, (size_t)bytes + 2 * CANARY) != 0)
        fail("memory", QE_ERR_ARENA);
    memset(memory, PATTERN, (size_t)bytes + 2 * CANARY); /* nothing may count on zeros */
    return (uint8_t *)memory + CANARY;
}

static void free_arena(uint8_t *arena, uint64_t bytes)
{
    for (uint32_t i = 0; i < CANARY; i++)
        if (arena[-1 - (int64_t)i] != PATTERN || arena[bytes + i] != PATTERN)
            fail("the engine wrote outside of its arena", QE_ERR_ARENA);
    free(arena - CANARY);
}

/* Refused with one byte less, taken with all. */
static void init(qe_session *s, const qe_image *image, const qe_session_options *o,
                 const void *kernels, const qe_workers *workers, uint8_t *arena, uint64_t bytes)
{
    int error = qe_session_init(s, image, o, kernels, workers, arena, bytes - 1);
    if (error != QE_ERR_ARENA)
        fail("one byte less than the size was not refused", error);
    if ((error = qe_session_init(s, image, o, kernels, workers, arena, bytes)) != 0)
        fail("qe_session_init", error);
}

static void add_rows(qe_sha256 *hash, const float *row, uint32_t rows, uint32_t n)
{
    for (uint32_t i = 0; i < rows; i++, row += (n + 31) / 32 * 32)
        qe_sha256_update(hash, row, (size_t)n * 4);
}

static void print_hash(const char *name, const qe_sha256 *hash)
{
    uint8_t digest[32];
    qe_sha256_digest(hash, digest);
    printf("\"%s\": \"", name);
    for (int i = 0; i < 32; i++)
        printf("%02x", digest[i]);
    printf("\", ");
}

/* The logits of every token of the prompt: what a batch gives must be what single tokens give.
 */
static void print_all_logits(qe_session *s, const arguments *a)
{
    const uint32_t n = s->image->config.vocab_size;
    float *rows = malloc((size_t)a->prompt_tokens * ((n + 31) / 32 * 32) * sizeof(float));
    qe_sha256 hash;
    int error = rows ? qe_session_eval(s, a->prompt, a->prompt_tokens, rows) : QE_ERR_SPACE;
    if (error || (error = qe_session_rewind(s, 0)) != 0)
        fail("all logits", error);
    qe_sha256_init(&hash);
    add_rows(&hash, rows, a->prompt_tokens, n);
    print_hash("all_logits_hash", &hash);
    free(rows);
}

static void run(const arguments *a, const qe_image *image, const qe_session_options *o,
                const void *kernels)
{
    const uint64_t bytes = qe_session_size(&image->config, o);
    qe_pool *pool = qe_pool_open(o->threads, 0);
    if (!bytes || !pool)
        fail("options", QE_ERR_USAGE);
    uint8_t *arena = new_arena(bytes);
    qe_session s;
    qe_sampler sampler = a->sampler;
    qe_sha256 hash;
    init(&s, image, o, kernels, qe_pool_workers(pool), arena, bytes);
    printf("{");
    if (a->all_logits)
        print_all_logits(&s, a);
    qe_sha256_init(&hash);
    int error = qe_session_eval(&s, a->prompt, a->prompt_tokens, NULL);
    printf("\"tokens\": [");
    for (uint32_t i = 0; i < a->tokens && !error; i++) {
        add_rows(&hash, qe_session_logits(&s), 1, image->config.vocab_size);
        const int32_t token = qe_session_sample(&s, &sampler);
        if (token < 0)
            fail("qe_session_sample", token);
        const uint32_t next = (uint32_t)token;
        printf("%s%u", i ? ", " : "", (unsigned)next);
        if (i + 1 < a->tokens)
            error = qe_session_eval(&s, &next, 1, NULL);
    }
    if (error)
        fail("qe_session_eval", error);
    printf("], ");
    print_hash("logits_hash", &hash);
    printf("\"arena_bytes\": %llu, \"kernels\": \"%s\", \"batch\": %u, \"threads\": %u}\n",
           (unsigned long long)bytes, qe_kernels_name(kernels), (unsigned)o->batch,
           (unsigned)o->threads);
    qe_pool_close(pool);
    free_arena(arena, bytes);
}

static void print_size(const arguments *a, const qe_image *image, const uint32_t size[4])
{
    const qe_session_options o = {size[0], size[1], size[2], size[3]};
    const uint64_t bytes = qe_session_size(&image->config, &o);
    qe_session s;
    if (!bytes)
        fail("options", QE_ERR_USAGE);
    uint8_t *arena = new_arena(bytes);
    init(&s, image, &o, qe_kernels_find(NULL, a->features), NULL, arena, bytes);
    printf("{\"arena_bytes\": %llu, \"planned_bytes\": %llu}\n", (unsigned long long)bytes,
           (unsigned long long)image->plan_arena_bytes);
    free_arena(arena, bytes);
}

/* Every combination of kernel set, batch and threads. */
static void run_all(arguments *a, const qe_image *image)
{
    const int every = a->kernels && strcmp(a->kernels, "all") == 0;
    int usable;
    const char *name;
    for (uint32_t i = 0; (name = qe_kernels_list(i, a->features, &usable)) != NULL; i++) {
        const void *kernels = qe_kernels_find(every ? name : a->kernels, a->features);
        if (every && !usable)
            continue;
        if (!kernels)
            fail(a->kernels, QE_ERR_KERNELS);
        for (uint32_t b = 0; b < (a->batch_count ? a->batch_count : 1); b++)
            for (uint32_t t = 0; t < (a->thread_count ? a->thread_count : 1); t++) {
                qe_session_options o = image->plan;
                o.context = a->context ? a->context : o.context;
                o.batch = a->batch_count ? a->batches[b] : o.batch;
                o.threads = a->thread_count ? a->threads[t] : 1;
                run(a, image, &o, kernels);
            }
        if (!every)
            return;
    }
}

int main(int argc, char **argv)
{
    arguments a = parse(argc, argv);
    const uint8_t *base;
    uint64_t bytes;
    qe_image image;
    if (!a.image || (!a.prompt_tokens && !a.size_count) ||
        qe_host_map(a.image, &base, &bytes) != 0)
        fail("IMAGE that can be read, and --prompt or --size", QE_ERR_USAGE);
    const int error = qe_image_open(&image, base, bytes);
    if (error)
        fail(a.image, error);
    qe_host_float_enter();
    for (uint32_t i = 0; i < a.size_count; i++)
        print_size(&a, &image, a.sizes[i]);
    if (a.prompt_tokens)
        run_all(&a, &image);
    qe_host_unmap(base, bytes);
    return 0;
}
