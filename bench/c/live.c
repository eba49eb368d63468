/* SPDX-License-Identifier: MIT */
/*
 * live.c - what an operation costs while n objects are in use.
 *
 * pattern=pair: allocate, touch and free one object while n others stay as they are.
 * pattern=random: free one of the n, chosen at random, and allocate another in its
 * place: every free meets another slab, and beyond the processor's caches every step is
 * a miss. pattern=walk: the misses alone: touch one of the n, chosen at random.
 * pattern=fill: allocate n, touch each, free all in the same order (the pages are
 * warm). One operation is an allocation with its free.
 */
#include "bench.h"

INLINE uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

INLINE void fill(enum kind kind, struct pool *p, void **objects, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        objects[i] = take(kind, p);
        if (objects[i] == NULL) {
            die("object %llu: %s", (unsigned long long)i, us_last_error());
        }
        touch(objects[i], i);
    }
}

INLINE void drain(enum kind kind, struct pool *p, void **objects, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        give(kind, p, objects[i]);
    }
}

INLINE void pairs(enum kind kind, struct pool *p, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        void *object = take(kind, p);

        touch(object, i);
        give(kind, p, object);
    }
}

INLINE void replace(enum kind kind, struct pool *p, void **objects, uint64_t n,
                    uint64_t count, uint64_t *state)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t victim = next_random(state) % n;

        give(kind, p, objects[victim]);
        objects[victim] = take(kind, p);
        touch(objects[victim], i);
    }
}

INLINE void walk(void **objects, uint64_t n, uint64_t count, uint64_t *state)
{
    for (uint64_t i = 0; i < count; i++) {
        touch(objects[next_random(state) % n], i);
    }
}

static NOINLINE void batch(enum kind kind, struct pool *p, void **objects, uint64_t n,
                           uint64_t count, uint64_t *state)
{
    if (option_is("pattern", "pair")) {
        WITH_KIND(kind, pairs, p, count);
    } else if (option_is("pattern", "walk")) {
        walk(objects, n, count, state);
    } else {
        WITH_KIND(kind, replace, p, objects, n, count, state);
    }
}

static NOINLINE void fill_any(enum kind kind, struct pool *p, void **objects,
                              uint64_t n)
{
    WITH_KIND(kind, fill, p, objects, n);
}

static NOINLINE void drain_any(enum kind kind, struct pool *p, void **objects,
                               uint64_t n)
{
    WITH_KIND(kind, drain, p, objects, n);
}

void workload_live(enum kind kind)
{
    uint64_t n = option("n", 1000), batches = option("batches", 20);
    uint64_t count = option("count", 10000), state = 88172645463325252u;
    void **objects = calloc(n, sizeof(*objects));
    struct samples s = {0};
    struct pool pool;

    arena_open(kind, 1u << 30, 1u << 30);
    pool_open(kind, &pool, option("size", 64), 0);
    fill_any(kind, &pool, objects, n);
    if (option_is("pattern", "fill")) {
        uint64_t rounds = 1 + count / n;

        drain_any(kind, &pool, objects, n);
        for (uint64_t i = 0; i < batches; i++) {
            uint64_t start = now_ns();

            for (uint64_t j = 0; j < rounds; j++) {
                fill_any(kind, &pool, objects, n);
                drain_any(kind, &pool, objects, n);
            }
            samples_add(&s, now_ns() - start, rounds * n);
        }
    } else {
        /* Shuffles the objects, so that neighbours in `objects` are not in memory. */
        if (!option_is("pattern", "pair")) {
            WITH_KIND(kind, replace, &pool, objects, n, 2 * n, &state);
        }
        for (uint64_t i = 0; i < batches; i++) {
            uint64_t start = now_ns();

            batch(kind, &pool, objects, n, count, &state);
            samples_add(&s, now_ns() - start, count);
        }
    }
    samples_print("ns", &s);
}
