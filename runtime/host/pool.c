/* pool.c - the engine's workers on threads. Chunks are claimed one at a time, so a worker that
 * the system does not run holds nobody up but for the chunk it is in; where that happens, as
 * beside a busy process, the caller goes on alone for a while. Waiting spins briefly, then
 * sleeps. */
#define _GNU_SOURCE
#include "host.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* A wait for the last chunks is a stall when it takes this much longer than three chunks. */
static const uint64_t STALL_NS = 100 * 1000;
/* How long the caller goes on alone after a stall: doubled by each that follows within CALM_NS.
 */
static const uint64_t ALONE_NS = 2 * 1000 * 1000, ALONE_MOST_NS = 512 * 1000 * 1000;
static const uint64_t CALM_NS = 50 * 1000 * 1000;

enum { SPINS = 20000, MOST_THREADS = 64, STACK_BYTES = 256 * 1024, MOST_CHUNKS = 0xFFFF };

typedef struct {
    qe_pool *pool;
    pthread_t thread;
    uint32_t index;
} worker;

struct qe_pool {
    qe_workers workers;
    uint32_t threads;
    pid_t process;
    /* The job. Written by run() while no ticket has a chunk left; so a claim that succeeds
     * proves that what was read before it is of this job. */
    _Atomic(void (*)(void *, uint32_t, uint32_t)) task;
    _Atomic(void *) argument;
    _Atomic uint32_t first;               /* number of the job's first chunk */
    _Alignas(64) _Atomic uint64_t ticket; /* job number << 32 | chunks << 16 | next of them */
    _Alignas(64) _Atomic uint32_t done;   /* chunks of this job that are finished */
    _Alignas(64) _Atomic uint32_t sleepers;
    _Atomic int quit;
    uint64_t alone_until, alone, stalled_at; /* nanoseconds; the caller's only */
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

/* Claims and runs chunks of job number `job` until none is left; returns how many. */
static uint32_t work(qe_pool *pool, uint32_t job, uint32_t index)
{
    uint64_t ticket = atomic_load(&pool->ticket);
    uint32_t ran = 0;
    while ((uint32_t)(ticket >> 32) == job) {
        const uint32_t chunks = (uint32_t)ticket >> 16, next = (uint32_t)ticket & MOST_CHUNKS;
        void (*task)(void *, uint32_t, uint32_t) = atomic_load(&pool->task);
        void *argument = atomic_load(&pool->argument);
        const uint32_t first = atomic_load(&pool->first);
        if (next >= chunks)
            break;
        if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket + 1))
            continue;
        task(argument, first + next, index);
        ticket = atomic_load(&pool->ticket);
        ran++;
    }
    if (ran)
        atomic_fetch_add(&pool->done, ran);
    return ran;
}

/* Decides after a wait from `idle` to `end` whether a worker was kept from running. */
static void judge(qe_pool *pool, uint64_t began, uint64_t idle, uint64_t end, uint32_t ran)
{
    const uint64_t chunk = ran ? (idle - began) / ran : 0;
    if (end - idle < 3 * chunk + STALL_NS)
        return;
    if (end - pool->stalled_at > pool->alone + CALM_NS)
        pool->alone = ALONE_NS;
    else if (pool->alone < ALONE_MOST_NS)
        pool->alone *= 2;
    pool->stalled_at = end;
    pool->alone_until = end + pool->alone;
}

/* Runs a job of at most MOST_CHUNKS chunks. */
static void run_job(qe_pool *pool, void (*task)(void *, uint32_t, uint32_t), void *argument,
                    uint32_t first, uint32_t chunks)
{
    const uint64_t began = now();
    if (began < pool->alone_until) {
        for (uint32_t chunk = 0; chunk < chunks; chunk++)
            task(argument, first + chunk, 0);
        return;
    }
    const uint32_t job = (uint32_t)(atomic_load(&pool->ticket) >> 32) + 1;
    atomic_store_explicit(&pool->task, task, memory_order_relaxed);
    atomic_store_explicit(&pool->argument, argument, memory_order_relaxed);
    atomic_store_explicit(&pool->first, first, memory_order_relaxed);
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    atomic_store(&pool->ticket, (uint64_t)job << 32 | chunks << 16);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
    const uint32_t ran = work(pool, job, 0);
    if (atomic_load(&pool->done) == chunks)
        return;
    const uint64_t idle = now();
    for (int spins = 0; atomic_load(&pool->done) != chunks; spins++)
        if (spins < SPINS)
            relax();
        else
            sched_yield();
    judge(pool, began, idle, now(), ran);
}

static void run(void *self, void (*task)(void *, uint32_t, uint32_t), void *argument,
                uint32_t chunks)
{
    for (uint32_t first = 0, count; first < chunks; first += count) {
        count = chunks - first < MOST_CHUNKS ? chunks - first : MOST_CHUNKS;
        run_job(self, task, argument, first, count);
    }
}

static void *worker_main(void *argument)
{
    worker *self = argument;
    qe_pool *pool = self->pool;
    uint32_t seen = 0;
    qe_host_float_enter();
    while (!atomic_load(&pool->quit)) {
        int spins = 0;
        while ((uint32_t)(atomic_load(&pool->ticket) >> 32) == seen &&
               !atomic_load(&pool->quit)) {
            if (++spins < SPINS) {
                relax();
                continue;
            }
            pthread_mutex_lock(&pool->lock);
            atomic_fetch_add(&pool->sleepers, 1);
            while ((uint32_t)(atomic_load(&pool->ticket) >> 32) == seen &&
                   !atomic_load(&pool->quit))
                pthread_cond_wait(&pool->wake, &pool->lock);
            atomic_fetch_sub(&pool->sleepers, 1);
            pthread_mutex_unlock(&pool->lock);
        }
        seen = (uint32_t)(atomic_load(&pool->ticket) >> 32);
        work(pool, seen, self->index);
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
    pool->workers = (qe_workers){.self = pool, .run = run};
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
