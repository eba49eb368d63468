/* SPDX-License-Identifier: MIT */
/*
 * large.c - a picture-sized object, new each time and written in full.
 *
 * Each batch is one object: allocate, memcpy into all of it, free. "mapped_ns" is the
 * same memcpy into memory that stays mapped; the two take turns. depth=4: four objects
 * are alive, the oldest is freed (and four mapped buffers take turns).
 *
 * moving=1: the source moves by some pages each time; 0: it stays. That matters: the
 * system maps a large malloc() made after a 256 MiB arena so that source and object are
 * 2^28 + 16 bytes apart, and at that very distance the copy takes 1.2 times as long (10
 * runs, 1.02 to 1.40; more on a busy machine). One page more or less and it is gone
 * (0.99). Which unit of the processor collides there has not been found out.
 */
#include <string.h>

#include "bench.h"

#define DEPTH_MAX 64
#define SHIFTS    61 /* pages by which the source moves */

INLINE void cycle(enum kind kind, struct pool *p, void **slot, const void *source)
{
    if (*slot != NULL) {
        give(kind, p, *slot);
    }
    *slot = take(kind, p);
    if (*slot == NULL) {
        die("%s", us_last_error());
    }
    memcpy(*slot, source, p->size);
}

static NOINLINE void cycle_any(enum kind kind, struct pool *p, void **slot,
                               const void *source)
{
    WITH_KIND(kind, cycle, p, slot, source);
}

void workload_large(enum kind kind)
{
    uint64_t size = option("size", 1920 * 1080 * 3), batches = option("batches", 40);
    uint64_t depth = option("depth", 1);
    void *live[DEPTH_MAX] = {NULL}, *mapped[DEPTH_MAX] = {NULL};
    struct samples fresh = {0}, baseline = {0};
    char *sources = malloc(size + SHIFTS * 4096), *source = sources;
    struct pool pool;

    if (depth < 1 || depth > DEPTH_MAX) {
        die("depth: 1 to %d", DEPTH_MAX);
    }
    arena_open(kind, 256u << 20, UINT64_MAX);
    pool_open(kind, &pool, size, 0);
    memset(sources, 1, size + SHIFTS * 4096);
    for (uint64_t i = 0; i < depth; i++) {
        mapped[i] = malloc(size);
        memset(mapped[i], 2, size);
        cycle_any(kind, &pool, &live[i], source);
    }
    for (uint64_t i = 0; i < batches; i++) {
        uint64_t start = now_ns(), middle;

        if (option("moving", 1)) {
            source = sources + i * 7 % SHIFTS * 4096;
        }
        cycle_any(kind, &pool, &live[i % depth], source);
        middle = now_ns();
        memcpy(mapped[i % depth], source, size);
        samples_add(&baseline, now_ns() - middle, 1);
        samples_add(&fresh, middle - start, 1);
    }
    samples_print("ns", &fresh);
    samples_print("mapped_ns", &baseline);
}
