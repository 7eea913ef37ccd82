/* one_thread.c - one evaluation under callgrind: what runs in steps of several chunks, and what
 * on one thread. in_parallel and measured are counted by name; bench/one_thread.py reads them.
 * Prints one line of JSON: the parallel steps, and how often all wait for all.
 *
 *   one_thread IMAGE KERNELS THREADS DEPTH TOKENS */
#define _GNU_SOURCE
#include "../../runtime/host/host.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct {
    unsigned steps, waits;
} tally;

__attribute__((noinline)) void in_parallel(const qe_step *step)
{
    for (uint32_t chunk = 0; chunk < step->chunks; chunk++)
        step->task(step->argument, chunk, 0);
    __asm__ volatile("" ::: "memory");
}

static void run(void *self, const qe_step *steps, uint32_t count)
{
    tally *t = self;
    uint32_t sections = 1; /* of the step before */
    for (uint32_t i = 0; i < count; i++) {
        if (steps[i].chunks == 1)
            steps[i].task(steps[i].argument, 0, 0);
        if (steps[i].chunks > 1) {
            in_parallel(&steps[i]);
            t->steps++;
            t->waits += sections == 1 || steps[i].sections != sections;
        }
        if (steps[i].chunks)
            sections = steps[i].sections;
    }
}

__attribute__((noinline)) int measured(qe_session *s, const uint32_t *tokens, uint32_t count)
{
    const int error = qe_session_eval(s, tokens, count, NULL);
    __asm__ volatile("" ::: "memory");
    return error;
}

static void require(int truth, const char *what)
{
    if (truth)
        return;
    fprintf(stderr, "serial: %s\n", what);
    exit(1);
}

int main(int argc, char **argv)
{
    const uint8_t *base;
    uint64_t bytes;
    qe_image image;
    qe_session session;
    tally t = {0};
    require(argc == 6, "IMAGE KERNELS THREADS DEPTH TOKENS");
    require(qe_host_map(argv[1], &base, &bytes) == 0, "the image cannot be read");
    require(qe_image_open(&image, base, bytes) == 0, "this is no image");
    const void *kernels = qe_kernels_find(argv[2], qe_host_features());
    require(kernels != NULL, "no such kernel set here");
    const uint32_t threads = (uint32_t)atoi(argv[3]), depth = (uint32_t)atoi(argv[4]),
                   count = (uint32_t)atoi(argv[5]);
    qe_session_options options = image.plan;
    options.threads = threads;
    const uint64_t need = qe_session_size(&image.config, &options);
    void *arena = qe_host_arena(need);
    uint32_t *tokens = malloc((depth + count + 1) * sizeof *tokens);
    require(arena && tokens, "memory");
    const qe_workers workers = {&t, threads, run};
    qe_host_float_enter();
    require(qe_session_init(&session, &image, &options, kernels, &workers, arena, need) == 0,
            "a session");
    for (uint32_t i = 0; i < depth + count; i++)
        tokens[i] = (i * 7919 + 5) % image.config.vocab_size;
    require(!depth || qe_session_eval(&session, tokens, depth, NULL) == 0, "the depth");
    t = (tally){0};
    require(measured(&session, tokens + depth, count) == 0, "the tokens");
    printf("{\"kernels\": \"%s\", \"steps\": %u, \"waits\": %u}\n", qe_kernels_name(kernels),
           t.steps, t.waits);
    free(tokens);
    qe_host_arena_free(arena, need);
    qe_host_unmap(base, bytes);
    return 0;
}
