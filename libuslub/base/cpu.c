/* SPDX-License-Identifier: MIT */
/* cpu.c - the machine's topology, read from sysfs; see cpu.h. */
#include "base/cpu.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NODES "/sys/devices/system/node"

uint64_t us_ticks(void)
{
#if defined(US_EXPLORE)
    return 0; /* what is explored can be played again */
#elif defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;

    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#endif
}

unsigned us_cpu_count(void)
{
    long n = sysconf(_SC_NPROCESSORS_CONF);

    return n < 1 ? 1 : (unsigned)n;
}

ptrdiff_t us_cpu_id_offset;
static _Thread_local uint32_t no_cpu_id = UINT32_MAX; /* where there is no rseq */

__attribute__((constructor)) static void find_cpu_id(void)
{
    us_cpu_id_offset = &__rseq_size != NULL && __rseq_size != 0
                           ? __rseq_offset + 4
                           : (char *)&no_cpu_id - (char *)__builtin_thread_pointer();
}

uint32_t us_cpu_ask(void)
{
    int cpu = sched_getcpu();

    return cpu < 0 ? 0 : (uint32_t)cpu;
}

/* "node12" -> 12, anything else -> -1. */
static int node_number(const char *name)
{
    char *end;
    long n;

    if (strncmp(name, "node", 4) != 0 || name[4] < '0' || name[4] > '9') {
        return -1;
    }
    n = strtol(name + 4, &end, 10);
    return *end == '\0' && n < 1024 ? (int)n : -1;
}

unsigned us_node_count(void)
{
    unsigned highest = 0;
    struct dirent *entry;
    DIR *dir = opendir(NODES);

    if (dir == NULL) {
        return 1;
    }
    while ((entry = readdir(dir)) != NULL) {
        int node = node_number(entry->d_name);

        if (node > (int)highest) {
            highest = (unsigned)node;
        }
    }
    closedir(dir);
    return highest + 1;
}

unsigned us_node_of_cpu(unsigned cpu)
{
    char path[96];
    unsigned nodes = us_node_count();

    for (unsigned node = 0; node < nodes; node++) {
        (void)snprintf(path, sizeof(path), NODES "/node%u/cpu%u", node, cpu);
        if (access(path, F_OK) == 0) {
            return node;
        }
    }
    return 0;
}

unsigned us_node_distance(unsigned from, unsigned to)
{
    char path[96];
    unsigned distance = from == to ? 10 : 20;
    FILE *file;

    (void)snprintf(path, sizeof(path), NODES "/node%u/distance", from);
    file = fopen(path, "r");
    if (file == NULL) {
        return distance;
    }
    for (unsigned i = 0; i <= to; i++) {
        if (fscanf(file, "%u", &distance) != 1) {
            distance = from == to ? 10 : 20;
            break;
        }
    }
    (void)fclose(file);
    return distance;
}
