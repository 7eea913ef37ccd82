/* pool.c - the engine's workers on threads. A job is a list of steps; who finishes the last
 * chunk of one opens the next, and runs a step of one chunk itself. Chunks are claimed one at a
 * time, so a worker that the system does not run holds nobody up but for the chunk it is in;
 * where that happens, as beside a busy process, the caller goes on alone for a while. Waiting
 * spins briefly, then sleeps. */
#define _GNU_SOURCE
#include "host.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* A wait for others is a stall when it takes this much longer than three chunks of the stretch,
 * or, where the caller has run none of them, this long. */
static const uint64_t STALL_NS = 100 * 1000, UNKNOWN_STALL_NS = 2 * 1000 * 1000;
/* How long the caller goes on alone after a stall: doubled by each that follows within CALM_NS.
 */
static const uint64_t ALONE_NS = 2 * 1000 * 1000, ALONE_MOST_NS = 512 * 1000 * 1000;
static const uint64_t CALM_NS = 50 * 1000 * 1000;

enum { SPINS = 20000, MOST_THREADS = 64, STACK_BYTES = 256 * 1024, MOST_CHUNKS = 0xFFFF };

/* Turns of a wait that take less than STALL_NS wherever this runs. */
enum { LONG_WAIT = 500 };

typedef struct {
    qe_pool *pool;
    pthread_t thread;
    uint32_t index;
} worker;

/* A count in a cache line of its own. */
typedef struct {
    _Alignas(64) _Atomic uint32_t value;
} counter;

struct qe_pool {
    qe_workers workers;
    uint32_t threads;
    pid_t process;
    /* The job, and the stretch of it that is open: some chunks of one step, or steps with the
     * same sections. Written while no ticket has a chunk left; so a claim that succeeds proves
     * that what was read before it is of this stretch. */
    _Atomic(const qe_step *) steps;
    _Atomic uint32_t count;               /* of the job's steps */
    _Atomic uint32_t from, to;            /* the stretch's steps */
    _Atomic uint32_t first;               /* number of its first chunk in its step */
    _Alignas(64) _Atomic uint64_t ticket; /* stretch number << 32 | chunks << 16 | next */
    counter done;                         /* chunks of this stretch that are finished */
    counter in_section[QE_MOST_SECTIONS]; /* the same of each section */
    counter busy;                         /* the job is not done */
    counter sleepers;
    _Atomic int quit;
    /* The caller's only. Times in nanoseconds; began, ran: of the stretch, chunks run by it. */
    uint64_t alone_until, alone, stalled_at, began;
    uint32_t ran;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    worker others[];
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* One turn of a wait for another worker. */
static void wait_turn(int turn)
{
    if (turn < SPINS)
        relax();
    else
        sched_yield();
}

/* Decides after a wait of the caller's from `idle` on whether a worker was kept from running.
 */
static void judge(qe_pool *pool, uint64_t idle)
{
    const uint64_t end = now();
    const uint64_t most =
        pool->ran ? 3 * (idle - pool->began) / pool->ran + STALL_NS : UNKNOWN_STALL_NS;
    if (end - idle < most)
        return;
    if (end - pool->stalled_at > pool->alone + CALM_NS)
        pool->alone = ALONE_NS;
    else if (pool->alone < ALONE_MOST_NS)
        pool->alone *= 2;
    pool->stalled_at = end;
    pool->alone_until = end + pool->alone;
}

/* ---- stretches ---- */

static int is_chained(const qe_step *a, const qe_step *b)
{
    return a->sections > 1 && a->sections <= QE_MOST_SECTIONS && a->sections == b->sections;
}

/* Behind step `from`, the end of those that run through its sections with it; their chunks. */
static uint32_t chain(const qe_step *steps, uint32_t from, uint32_t count, uint32_t *chunks)
{
    uint32_t to = from + 1;
    *chunks = steps[from].chunks;
    for (; to < count && is_chained(&steps[from], &steps[to]); to++) {
        if (steps[to].chunks > MOST_CHUNKS - *chunks)
            break;
        *chunks += steps[to].chunks;
    }
    return to;
}

/* Opens the job's next stretch, from chunk `first` of step `from` on; before that worker number
 * `index`, who calls, runs what is one chunk only. */
static void open_stretch(qe_pool *pool, uint32_t from, uint32_t first, uint32_t index)
{
    const qe_step *steps = atomic_load(&pool->steps);
    const uint32_t count = atomic_load(&pool->count);
    for (; from < count && steps[from].chunks - first < 2; from++, first = 0)
        if (first < steps[from].chunks)
            steps[from].task(steps[from].argument, first, index);
    if (from == count) {
        atomic_store(&pool->busy.value, 0);
        return;
    }
    uint32_t to = from + 1, chunks = steps[from].chunks - first;
    if (chunks > MOST_CHUNKS)
        chunks = MOST_CHUNKS;
    else if (!first)
        to = chain(steps, from, count, &chunks);
    const uint64_t stretch = (atomic_load(&pool->ticket) >> 32) + 1;
    atomic_store_explicit(&pool->from, from, memory_order_relaxed);
    atomic_store_explicit(&pool->to, to, memory_order_relaxed);
    atomic_store_explicit(&pool->first, first, memory_order_relaxed);
    atomic_store_explicit(&pool->done.value, 0, memory_order_relaxed);
    for (uint32_t i = 0; to - from > 1 && i < steps[from].sections; i++)
        atomic_store_explicit(&pool->in_section[i].value, 0, memory_order_relaxed);
    atomic_store(&pool->ticket, stretch << 32 | chunks << 16);
    if (atomic_load(&pool->sleepers.value)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* Runs a chunk of steps `from` to `to`, which go through their sections together: counted from
 * the first of them on, in the order in which they are claimed; so who has to be waited for is
 * at work. */
static void run_chained(qe_pool *pool, const qe_step *step, uint32_t chunk, uint32_t index)
{
    uint32_t before = 0; /* chunks of a section in the steps before */
    for (; chunk >= step->chunks; step++) {
        chunk -= step->chunks;
        before += step->chunks / step->sections;
    }
    _Atomic uint32_t *here = &pool->in_section[chunk / (step->chunks / step->sections)].value;
    if (atomic_load(here) < before) {
        const uint64_t idle = index ? 0 : now();
        int turn = 0;
        while (atomic_load(here) < before)
            wait_turn(turn++);
        if (!index && turn > LONG_WAIT)
            judge(pool, idle);
    }
    step->task(step->argument, chunk, index);
    atomic_fetch_add(here, 1);
}

static int has_chunks(uint64_t ticket)
{
    return ((uint32_t)ticket & MOST_CHUNKS) < (uint32_t)ticket >> 16;
}

/* Claims and runs chunks of the open stretch until none is left; who finishes its last chunk
 * goes on. */
static void work(qe_pool *pool, uint32_t index)
{
    uint64_t ticket = atomic_load(&pool->ticket);
    const uint64_t stretch = ticket >> 32;
    uint32_t ran = 0, from = 0, to = 0, first = 0;
    while (ticket >> 32 == stretch) {
        const qe_step *steps = atomic_load(&pool->steps);
        from = atomic_load(&pool->from);
        to = atomic_load(&pool->to);
        first = atomic_load(&pool->first);
        if (!has_chunks(ticket))
            break;
        if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket + 1))
            continue;
        const uint32_t next = (uint32_t)ticket & MOST_CHUNKS;
        if (to - from > 1)
            run_chained(pool, &steps[from], next, index);
        else
            steps[from].task(steps[from].argument, first + next, index);
        ran++;
        if (!index)
            pool->ran = ran;
        ticket = atomic_load(&pool->ticket);
    }
    /* the stretch cannot end before what was run here is counted: the ticket is still its own
     */
    const uint32_t chunks = (uint32_t)ticket >> 16;
    if (ran && atomic_fetch_add(&pool->done.value, ran) + ran == chunks) {
        if (to - from > 1)
            open_stretch(pool, to, 0, index);
        else
            open_stretch(pool, from, first + chunks, index);
    }
}

static void run(void *self, const qe_step *steps, uint32_t count)
{
    qe_pool *pool = self;
    if (now() < pool->alone_until) {
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t chunk = 0; chunk < steps[i].chunks; chunk++)
                steps[i].task(steps[i].argument, chunk, 0);
        return;
    }
    atomic_store(&pool->steps, steps);
    atomic_store(&pool->count, count);
    atomic_store(&pool->busy.value, 1);
    open_stretch(pool, 0, 0, 0);
    while (atomic_load(&pool->busy.value)) {
        pool->began = now();
        pool->ran = 0;
        work(pool, 0);
        if (has_chunks(atomic_load(&pool->ticket)) || !atomic_load(&pool->busy.value))
            continue;
        const uint64_t idle = now();
        int turn = 0;
        while (!has_chunks(atomic_load(&pool->ticket)) && atomic_load(&pool->busy.value))
            wait_turn(turn++);
        if (turn > LONG_WAIT)
            judge(pool, idle);
    }
}

static void *worker_main(void *argument)
{
    worker *self = argument;
    qe_pool *pool = self->pool;
    qe_host_float_enter();
    while (!atomic_load(&pool->quit)) {
        int spins = 0;
        while (!has_chunks(atomic_load(&pool->ticket)) && !atomic_load(&pool->quit)) {
            if (++spins < SPINS) {
                relax();
                continue;
            }
            pthread_mutex_lock(&pool->lock);
            atomic_fetch_add(&pool->sleepers.value, 1);
            while (!has_chunks(atomic_load(&pool->ticket)) && !atomic_load(&pool->quit))
                pthread_cond_wait(&pool->wake, &pool->lock);
            atomic_fetch_sub(&pool->sleepers.value, 1);
            pthread_mutex_unlock(&pool->lock);
        }
        work(pool, self->index);
    }
    return NULL;
}

/* Keeps a thread on a CPU, where the system can; elsewhere it runs where it will. */
static void pin(pthread_t thread, uint32_t cpu)
{
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pthread_setaffinity_np(thread, sizeof set, &set);
#else
    (void)thread;
    (void)cpu;
#endif
}

qe_pool *qe_pool_open(uint32_t threads, int pinned)
{
    void *memory = NULL;
    uint32_t cpus[MOST_THREADS];
    const size_t bytes = sizeof(qe_pool) + threads * sizeof(worker);
    if (!threads || threads > MOST_THREADS || posix_memalign(&memory, 64, bytes) != 0)
        return NULL;
    memset(memory, 0, bytes);
    qe_pool *pool = memory;
    pool->workers = (qe_workers){.self = pool, .threads = threads, .run = run};
    pool->threads = 1;
    pool->process = getpid();
    const uint32_t placed = pinned ? qe_host_cpus(cpus, MOST_THREADS) : 0;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = 0;
    for (uint32_t i = 1; i < threads && !failed; i++) {
        pool->others[i] = (worker){.pool = pool, .index = i};
        failed =
            pthread_create(&pool->others[i].thread, &attributes, worker_main, &pool->others[i]);
        if (!failed)
            pool->threads++;
        if (!failed && i < placed)
            pin(pool->others[i].thread, cpus[i]);
    }
    pthread_attr_destroy(&attributes);
    if (failed) {
        qe_pool_close(pool);
        return NULL;
    }
    return pool;
}

void qe_pool_close(qe_pool *pool)
{
    if (!pool)
        return;
    if (!qe_pool_is_here(pool)) { /* no thread to wait for; the lock may be held by one that
                                     is not here, for ever */
        free(pool);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->quit, 1);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 1; i < pool->threads; i++)
        pthread_join(pool->others[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

int qe_pool_is_here(const qe_pool *pool)
{
    return pool->process == getpid();
}

const qe_workers *qe_pool_workers(qe_pool *pool)
{
    return pool && pool->threads > 1 ? &pool->workers : NULL;
}
