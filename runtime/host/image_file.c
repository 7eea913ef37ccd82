/* image_file.c - an image's file: mapped for as long as it is open, with copies of what must
 * not change, and what becomes of a process under which a file is cut short. */
#define _GNU_SOURCE
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Maps a whole file for reading, from a multiple of a large page on, so that the system may
 * keep it in such pages: fewer walks of the page table, and no end of a small page at which a
 * prefetcher stops. */
static void *map_whole(int fd, size_t bytes)
{
#if defined(MADV_HUGEPAGE)
    const size_t large = (size_t)2 << 20, page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes >= large && bytes <= SIZE_MAX - 2 * large) {
        const size_t pages = (bytes + page - 1) / page * page, room = pages + large;
        uint8_t *start = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if ((void *)start == MAP_FAILED)
            return start;
        const size_t before = (large - (uintptr_t)start % large) % large;
        uint8_t *here = start + before;
        void *found = mmap(here, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
        if (found == MAP_FAILED) {
            const int error = errno;
            munmap(start, room);
            errno = error;
            return found;
        }
        if (before)
            munmap(start, before);
        if (before < large)
            munmap(here + pages, large - before);
        madvise(found, bytes, MADV_HUGEPAGE); /* a wish: without it all is as it was */
        return found;
    }
#endif
    return mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
}

/* Opens a regular file that is not empty, and maps it. Returns 0 or an errno value. */
static int open_and_map(const char *path, int *number, const uint8_t **base, uint64_t *bytes)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), error = 0;
    if (fd < 0)
        return errno;
    if (fstat(fd, &info) != 0)
        error = errno;
    else if (!S_ISREG(info.st_mode))
        error = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
    else if (info.st_size == 0)
        error = ENODATA;
    else if ((uint64_t)info.st_size != (size_t)info.st_size)
        error = EFBIG; /* 32 bits address no such file */
    if (!error) {
        void *p = map_whole(fd, (size_t)info.st_size);
        if (p == MAP_FAILED)
            error = errno;
        *base = p == MAP_FAILED ? NULL : p;
        *bytes = (uint64_t)info.st_size;
    }
    if (error)
        close(fd);
    *number = error ? -1 : fd;
    return error;
}

int qe_host_map(const char *path, const uint8_t **base, uint64_t *bytes)
{
    int number;
    const int error = open_and_map(path, &number, base, bytes);
    if (!error)
        close(number);
    return error;
}

void qe_host_unmap(const uint8_t *base, uint64_t bytes)
{
    munmap((void *)(uintptr_t)base, (size_t)bytes);
}

/* Puts a copy in the place of the mapping's first bytes, in whole pages. Returns 0 or an errno
 * value. */
static int keep(const qe_file *file, uint64_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t pages = ((size_t)bytes + page - 1) / page * page;
    uint8_t *own = mmap((void *)(uintptr_t)file->base, pages, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (own == MAP_FAILED)
        return errno;
    for (size_t at = 0; at < pages;) {
        const ssize_t n = pread(file->number, own + at, pages - at, (off_t)at);
        if (n < 0 && errno != EINTR)
            return errno;
        if (n == 0)
            break; /* the end, in the last page; a file that was cut before it fails its hash */
        at += n > 0 ? (size_t)n : 0;
    }
    return mprotect(own, pages, PROT_READ) == 0 ? 0 : errno;
}

static int stamp_of(const qe_file *file, uint64_t stamp[2])
{
    struct stat info;
    if (fstat(file->number, &info) != 0)
        return errno;
#if defined(__APPLE__)
    const struct timespec t = info.st_mtimespec;
#else
    const struct timespec t = info.st_mtim;
#endif
    stamp[0] = (uint64_t)info.st_size;
    stamp[1] = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    return 0;
}

int qe_host_image_open(qe_image *image, qe_file *file, const char *path)
{
    *file = (qe_file){.base = NULL};
    int error = open_and_map(path, &file->number, &file->base, &file->bytes);
    if (!error)
        error = stamp_of(file, file->stamp);
    /* Once, but for a file that somebody writes to in between. */
    uint64_t kept = 0, front = error ? 0 : qe_image_front(file->base, file->bytes);
    while (!error && front > kept) {
        kept = front;
        error = keep(file, kept);
        front = qe_image_front(file->base, file->bytes);
    }
    return error ? error : qe_image_open(image, file->base, file->bytes);
}

void qe_host_image_close(qe_file *file)
{
    if (!file->base)
        return;
    qe_host_unmap(file->base, file->bytes);
    close(file->number);
    file->base = NULL;
}

int qe_host_image_touched(qe_file *file, int settle)
{
    if (settle)
        memcpy(file->stamp, file->seen, sizeof file->stamp);
    if (settle || stamp_of(file, file->seen) != 0)
        return 0;
    if (memcmp(file->seen, file->stamp, sizeof file->seen) == 0)
        return 0;
    return file->seen[0] < file->bytes ? 2 : 1;
}

/* What the process says and does at its end: a signal's handler reaches nothing else. */
static char last_words[512], last_file[4096];
static size_t last_words_bytes;
static int last_code;

static void cut_short(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (info->si_code != BUS_ADRERR && info->si_code != BUS_OBJERR) {
        signal(number, SIG_DFL); /* a bug: the access is tried again, and ends as it would */
        return;
    }
    if (last_file[0])
        unlink(last_file);
    if (write(STDERR_FILENO, last_words, last_words_bytes) < 0)
        _exit(last_code); /* nobody hears it */
    _exit(last_code);
}

int qe_host_end_when_cut(const char *text, int code, const char *unfinished)
{
    struct sigaction action;
    const size_t bytes = strlen(text), file_bytes = strlen(unfinished);
    if (bytes > sizeof last_words || file_bytes >= sizeof last_file)
        return ENAMETOOLONG;
    last_file[0] = 0; /* none, until the rest of its name is there */
    memcpy(last_words, text, bytes);
    last_words_bytes = bytes;
    last_code = code;
    if (file_bytes) {
        memcpy(last_file + 1, unfinished + 1, file_bytes);
        last_file[0] = unfinished[0];
    }
    memset(&action, 0, sizeof action);
    action.sa_sigaction = cut_short;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGBUS, &action, NULL) == 0 ? 0 : errno;
}
