/* pool_check.c - the host's pool: lists of steps, each chunk once, none before those that it
 * follows, no worker in two at once; and that the caller goes on alone after a stall. Prints
 * one line of JSON for each number of threads; exit 1 says what went wrong.
 *
 *   pool_check THREADS [THREADS …] */
#define _GNU_SOURCE
#include "../../runtime/host/host.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_STEPS = 12, MOST_CHUNKS = 140000, ROUNDS = 300, SECTIONS = 32 };

typedef struct job job;

typedef struct {
    job *job;
    uint32_t number;
} place;

struct job {
    qe_step steps[MOST_STEPS];
    place places[MOST_STEPS];
    uint32_t count, threads;
    _Atomic uint32_t done[MOST_STEPS], in_section[MOST_STEPS][SECTIONS];
    _Atomic uint8_t ran[MOST_STEPS][MOST_CHUNKS];
    _Atomic uint32_t busy[64];
};

static void require(int truth, const char *what)
{
    if (truth)
        return;
    fprintf(stderr, "pool_check: %s\n", what);
    exit(1);
}

/* Everything that a chunk may count on, looked at from inside of it. */
static void chunk_of(void *argument, uint32_t chunk, uint32_t worker)
{
    const place *here = argument;
    job *j = here->job;
    const qe_step *step = &j->steps[here->number];
    const uint32_t sections = step->sections;
    const uint32_t section = sections > 1 ? chunk / (step->chunks / sections) : 0;
    require(worker < j->threads, "a worker that there is not");
    require(atomic_fetch_add(&j->busy[worker], 1) == 0, "a worker in two chunks at once");
    require(chunk < step->chunks, "a chunk that there is not");
    require(atomic_fetch_add(&j->ran[here->number][chunk], 1) == 0, "a chunk ran twice");
    int chained = sections > 1;
    for (uint32_t i = here->number; i--;) {
        chained = chained && j->steps[i].sections == sections;
        if (chained)
            require(atomic_load(&j->in_section[i][section]) == j->steps[i].chunks / sections,
                    "a chunk began before its section was done");
        else
            require(atomic_load(&j->done[i]) == j->steps[i].chunks,
                    "a chunk began before the step before was done");
    }
    for (volatile uint32_t i = (chunk * 7 + worker) % 50; i; i--) {
    }
    atomic_fetch_sub(&j->busy[worker], 1);
    if (sections > 1)
        atomic_fetch_add(&j->in_section[here->number][section], 1);
    atomic_fetch_add(&j->done[here->number], 1);
}

static void run(const qe_workers *workers, job *j, uint32_t threads, const uint32_t (*shape)[2],
                uint32_t count)
{
    memset(j, 0, offsetof(job, ran));
    for (uint32_t i = 0; i < count; i++) {
        memset((void *)j->ran[i], 0, shape[i][0]);
        j->places[i] = (place){j, i};
        j->steps[i] = (qe_step){chunk_of, &j->places[i], shape[i][0], shape[i][1]};
    }
    j->count = count;
    j->threads = threads;
    workers->run(workers->self, j->steps, count);
    for (uint32_t i = 0; i < count; i++)
        require(atomic_load(&j->done[i]) == shape[i][0], "a step was left before its end");
}

/* ---- a worker that is kept from running, which is one that waits in its chunk ---- */

typedef struct {
    _Atomic uint32_t began;
    int64_t limit_ns;
    int stalls, timed_out;
} pair;

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Of two chunks: the caller's waits for the other to begin, the other for its time. */
static void pair_chunk(void *argument, uint32_t chunk, uint32_t worker)
{
    pair *p = argument;
    const int64_t until = now() + p->limit_ns;
    (void)chunk;
    if (worker == 0 && atomic_load(&p->began) < 2 && p->timed_out)
        return;
    atomic_fetch_add(&p->began, 1);
    if (worker == 0) {
        while (atomic_load(&p->began) < 2 && now() < until) {
        }
        p->timed_out = atomic_load(&p->began) < 2;
    } else if (p->stalls) {
        while (now() < until) {
        }
    }
}

static int goes_on_alone(const qe_workers *workers)
{
    for (int tries = 0; tries < 100; tries++) {
        pair stall = {.limit_ns = 5 * 1000 * 1000, .stalls = 1};
        pair after = {.limit_ns = 20 * 1000 * 1000};
        const qe_step first = {pair_chunk, &stall, 2, 1}, second = {pair_chunk, &after, 2, 1};
        workers->run(workers->self, &first, 1);
        workers->run(workers->self, &second, 1);
        if (after.timed_out)
            return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const uint32_t layer[][2] = {{1, 1}, {0, 1}, {6, 3}, {3, 3}, {12, 3}, {9, 3},
                                        {6, 3}, {1, 1}, {4, 1}, {0, 1}, {18, 1}, {4, 1}};
    static const uint32_t edges[][2] = {{0, 1},   {140000, 1}, {1, 1},     {1, 1},
                                        {64, 16}, {16, 16},    {65536, 2}, {10, 2},
                                        {17, 1},  {65535, 1},  {34, 17},   {1, 1}};
    static const uint32_t single[][2] = {{1, 1}, {1, 1}, {0, 1}};
    job *j = calloc(1, sizeof *j);
    require(j != NULL, "memory");
    for (int i = 1; i < argc; i++) {
        const uint32_t threads = (uint32_t)strtoul(argv[i], NULL, 10);
        qe_pool *pool = qe_pool_open(threads, 0);
        require(pool != NULL, "a pool");
        const qe_workers *workers = qe_pool_workers(pool);
        if (threads == 1) {
            require(!workers, "workers of one thread");
        } else {
            require(workers->threads == threads, "a pool of as many as it was opened for");
            for (int round = 0; round < ROUNDS; round++) {
                run(workers, j, threads, layer, sizeof layer / sizeof *layer);
                run(workers, j, threads, single, sizeof single / sizeof *single);
            }
            run(workers, j, threads, edges, sizeof edges / sizeof *edges);
            workers->run(workers->self, j->steps, 0);
            require(goes_on_alone(workers), "nobody goes on alone after a stall");
            run(workers, j, threads, edges, sizeof edges / sizeof *edges);
        }
        qe_pool_close(pool);
        printf("{\"threads\": %u}\n", (unsigned)threads);
    }
    free(j);
    return 0;
}
