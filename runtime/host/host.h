/* host.h - what the engine may not touch: threads, mapped files, CPU detection and the
 * floating-point environment of a POSIX host. It hands the engine a qe_workers and feature
 * bits; it never enters firmware. Everything it allocates, it allocates at open. */
#ifndef QE_HOST_H
#define QE_HOST_H

#include "../engine/qedge.h"

/* Feature bits of this machine, for qe_kernels_find. */
uint32_t qe_host_features(void);

/* The CPUs worth a worker: those this process may run on, one a core, of the fastest kind of
 * core only. Fills `chosen` (most entries) with their numbers and returns how many, 1 or more.
 */
uint32_t qe_host_cpus(uint32_t *chosen, uint32_t most);

/* The choice itself: allowed[cpu] says which CPUs may be used and is narrowed down by what the
 * files under root (Linux: /sys/devices) say; returns how many were chosen, maybe 0. */
uint32_t qe_host_choose_cpus(const char *root, uint8_t *allowed, uint32_t count,
                             uint32_t *chosen, uint32_t most);

/* Maps a whole regular file for reading. Returns 0 or an errno value. */
int qe_host_map(const char *path, const uint8_t **base, uint64_t *bytes);
void qe_host_unmap(const uint8_t *base, uint64_t bytes);

/* An image's file that stays mapped. */
typedef struct {
    const uint8_t *base;
    uint64_t bytes;
    int number; /* of the open file */
    /* Size in bytes, and when it was written to last, in nanoseconds: as it is known to be
     * right, and as it was seen last. */
    uint64_t stamp[2], seen[2];
} qe_file;

/* Maps an image and opens it. What qe_image_open checks, and the engine takes offsets from
 * later, is a copy of this process's own in the place of the mapping's first pages: whatever
 * others write into the file, that stays. Returns 0, an errno value, or what qe_image_open
 * says; the file is to be closed in every case. */
int qe_host_image_open(qe_image *image, qe_file *file, const char *path);
void qe_host_image_close(qe_file *file);

/* Whether somebody has written into the file since it was opened or settled: 0 no, 1 yes, 2 and
 * it is shorter than what is mapped. settle: it was found to be right as it was seen last. */
int qe_host_image_touched(qe_file *file, int settle);

/* From now on a file that is cut short while it is mapped (SIGBUS) ends the process: it says
 * `text` on standard error, removes the file `unfinished` ("": none), and exits with `code`.
 * For programs, which may call it again; a library has no say in that. Returns 0 or an errno
 * value.
 */
int qe_host_end_when_cut(const char *text, int code, const char *unfinished);

/* Zeroed pages, touched only as they are used; NULL when the system refuses. */
void *qe_host_arena(uint64_t bytes);
void qe_host_arena_free(void *arena, uint64_t bytes);

/* Sets rounding and subnormals to IEEE's defaults for this thread; returns what was set before.
 */
uint64_t qe_host_float_enter(void);
void qe_host_float_leave(uint64_t saved);

/* A pool of `threads` workers, the caller's thread among them: threads - 1 are started here.
 * It belongs to the process that opened it: after a fork a child has none of its threads, may
 * close it, and nothing else.
 * NULL when they cannot be. With one thread the pool starts none. pinned: each thread
 * that it starts stays on one of qe_host_cpus (the first is left to the caller's own thread,
 * which is the caller's to place), as far as they go. */
typedef struct qe_pool qe_pool;
qe_pool *qe_pool_open(uint32_t threads, int pinned);
void qe_pool_close(qe_pool *pool);
int qe_pool_is_here(const qe_pool *pool); /* whether this process opened it */
const qe_workers *qe_pool_workers(qe_pool *pool);

#endif
