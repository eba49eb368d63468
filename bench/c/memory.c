/* SPDX-License-Identifier: MIT */
/*
 * memory.c - how much memory n live objects really take.
 *
 * uslub: what the arena's file occupies; malloc: how much the resident set grew. All
 * objects are written in full, then counted.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

static uint64_t resident(void)
{
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    if (file == NULL || fscanf(file, "%*u %llu", &pages) != 1) {
        die("/proc/self/statm cannot be read");
    }
    fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t occupied(enum kind kind)
{
    struct us_arena_info info;

    if (kind != USLUB) {
        return resident();
    }
    if (us_arena_stat(arena, &info) != US_OK) {
        die("%s", us_last_error());
    }
    return info.committed;
}

INLINE void occupy(enum kind kind, struct pool *p, void **objects, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        objects[i] = take(kind, p);
        if (objects[i] == NULL) {
            die("object %llu: %s", (unsigned long long)i, us_last_error());
        }
        memset(objects[i], 1, p->size);
    }
}

void workload_memory(enum kind kind)
{
    uint64_t n = option("n", 1000), size = option("size", 64), empty, full, made;
    void **objects = malloc(n * sizeof(*objects));
    struct us_cache_info info = {0};
    struct pool pool;

    memset(objects, 1, n * sizeof(*objects));
    resident(); /* the buffers of stdio are there */
    arena_open(kind, n * size * 2 + (64u << 20), 0);
    empty = occupied(kind);
    pool_open(kind, &pool, size, 0);
    made = occupied(kind);
    WITH_KIND(kind, occupy, &pool, objects, n);
    full = occupied(kind);
    if (kind == USLUB && us_cache_stat(pool.cache, &info) != US_OK) {
        die("%s", us_last_error());
    }
    printf("\"payload\": %llu, \"empty\": %llu, \"cache\": %llu, \"full\": %llu, "
           "\"stride\": %llu, \"slabs\": %llu, \"order\": %u, \"per_slab\": %u, ",
           (unsigned long long)(n * size), (unsigned long long)empty,
           (unsigned long long)(made - empty), (unsigned long long)full,
           (unsigned long long)info.geometry.size, (unsigned long long)info.slabs,
           info.geometry.order, info.geometry.objects);
}
