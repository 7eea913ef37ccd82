/* cpus.c - which CPUs are worth a worker: of those that this process may run on, one a core,
 * and only cores of the fastest kind. Decoding waits for the slowest worker, and a second
 * thread of a core or a small core beside big ones is the slowest. Linux tells in /sys;
 * elsewhere every CPU counts. */
#define _GNU_SOURCE
#include "host.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

enum { MOST_CPUS = 1024 };

/* The first line of root/path, or "" where there is none. */
static const char *read_line(const char *root, const char *path, char *line, size_t bytes)
{
    char name[256];
    FILE *file = NULL;
    line[0] = 0;
    if ((size_t)snprintf(name, sizeof name, "%s/%s", root, path) < sizeof name)
        file = fopen(name, "re");
    if (file) {
        if (!fgets(line, (int)bytes, file))
            line[0] = 0;
        fclose(file);
    }
    return line;
}

static unsigned long cpu_number(const char *root, uint32_t cpu, const char *file)
{
    char path[96], line[64];
    snprintf(path, sizeof path, "system/cpu/cpu%u/%s", (unsigned)cpu, file);
    return strtoul(read_line(root, path, line, sizeof line), NULL, 10);
}

/* Drops the CPUs that a list as "0-3,8" does not name; a list that names none of them, or that
 * is empty, drops none. */
static void keep_listed(const char *list, uint8_t *allowed, uint32_t count)
{
    uint8_t named[MOST_CPUS] = {0};
    int some = 0;
    while (*list >= '0' && *list <= '9') {
        char *end;
        unsigned long from = strtoul(list, &end, 10), to = from;
        if (*end == '-')
            to = strtoul(end + 1, &end, 10);
        for (unsigned long cpu = from; cpu <= to && cpu < count; cpu++)
            some |= named[cpu] = allowed[cpu];
        list = *end == ',' ? end + 1 : end;
    }
    if (some)
        memcpy(allowed, named, count);
}

/* Drops CPUs whose number in `file` is below `part` of the largest. Returns 0 when no CPU has
 * one. */
static int keep_fastest(const char *root, const char *file, double part, uint8_t *allowed,
                        uint32_t count)
{
    unsigned long of[MOST_CPUS], largest = 0;
    for (uint32_t cpu = 0; cpu < count; cpu++) {
        of[cpu] = allowed[cpu] ? cpu_number(root, cpu, file) : 0;
        largest = of[cpu] > largest ? of[cpu] : largest;
    }
    for (uint32_t cpu = 0; largest && cpu < count; cpu++)
        allowed[cpu] = allowed[cpu] && (double)of[cpu] >= part * (double)largest;
    return largest != 0;
}

uint32_t qe_host_choose_cpus(const char *root, uint8_t *allowed, uint32_t count,
                             uint32_t *chosen, uint32_t most)
{
    char line[1024];
    uint32_t found = 0;
    count = count < MOST_CPUS ? count : MOST_CPUS;
    /* Intel's big cores, where there are two kinds; Arm's capacities; else frequencies, of
     * which small differences mean nothing */
    keep_listed(read_line(root, "cpu_core/cpus", line, sizeof line), allowed, count);
    if (!keep_fastest(root, "cpu_capacity", 0.5, allowed, count))
        keep_fastest(root, "cpufreq/cpuinfo_max_freq", 0.8, allowed, count);
    for (uint32_t cpu = 0; cpu < count && found < most; cpu++) {
        char path[96], *end;
        if (!allowed[cpu])
            continue;
        snprintf(path, sizeof path, "system/cpu/cpu%u/topology/thread_siblings_list",
                 (unsigned)cpu);
        const unsigned long first = strtoul(read_line(root, path, line, sizeof line), &end, 10);
        const int second_thread = end != line && first < cpu && allowed[first];
        if (!second_thread)
            chosen[found++] = cpu;
    }
    return found;
}

uint32_t qe_host_cpus(uint32_t *chosen, uint32_t most)
{
#if defined(__linux__)
    cpu_set_t set;
    uint8_t allowed[MOST_CPUS] = {0};
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        for (uint32_t cpu = 0; cpu < MOST_CPUS && cpu < CPU_SETSIZE; cpu++)
            allowed[cpu] = CPU_ISSET(cpu, &set) != 0;
        const uint32_t found =
            qe_host_choose_cpus("/sys/devices", allowed, MOST_CPUS, chosen, most);
        if (found)
            return found;
    }
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__APPLE__)
    int fast = 0;
    size_t bytes = sizeof fast;
    if (sysctlbyname("hw.perflevel0.physicalcpu", &fast, &bytes, NULL, 0) == 0 && fast > 0)
        n = fast;
#endif
    for (uint32_t cpu = 0; cpu < most; cpu++)
        chosen[cpu] = cpu;
    return n < 1 ? 1 : (uint32_t)n < most ? (uint32_t)n : most;
}
