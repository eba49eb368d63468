/* SPDX-License-Identifier: MIT */
/*
 * caches.c - what an operation costs with n caches of 64-byte objects.
 *
 * pattern=robin: each pair goes to the next cache: with many caches, what a pair needs
 * is no longer in the nearest processor cache. burst=16 stays for 16 pairs.
 * pattern=one: n caches exist, one is used.
 * Each cache holds some live objects (0 to 63), so that the hot slots do not all lie
 * on the same processor cache set.
 */
#include "bench.h"

INLINE void robin(enum kind kind, struct pool *pools, uint64_t n, uint64_t rounds,
                  uint64_t burst)
{
    for (uint64_t round = 0; round < rounds; round++) {
        for (uint64_t i = 0; i < n; i++) {
            for (uint64_t j = 0; j < burst; j++) {
                void *object = take(kind, &pools[i]);

                touch(object, i);
                give(kind, &pools[i], object);
            }
        }
    }
}

static NOINLINE void batch(enum kind kind, struct pool *pools, uint64_t n,
                           uint64_t rounds, uint64_t burst)
{
    WITH_KIND(kind, robin, pools, n, rounds, burst);
}

INLINE void occupy(enum kind kind, struct pool *p, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        touch(take(kind, p), i);
    }
}

void workload_caches(enum kind kind)
{
    uint64_t n = option("n", 1), batches = option("batches", 50), used = n;
    uint64_t burst = option("burst", 1), rounds;
    struct pool *pools = calloc(n, sizeof(*pools));
    struct samples s = {0};

    arena_open(kind, 256u << 20, UINT64_MAX);
    for (unsigned i = 0; i < n; i++) {
        pool_open(kind, &pools[i], option("size", 64), i);
        WITH_KIND(kind, occupy, &pools[i], (i * 37u) % 64);
    }
    if (option_is("pattern", "one")) {
        used = 1;
    }
    rounds = 1 + option("count", 10000) / (used * burst);
    batch(kind, pools, used, rounds, burst);
    for (uint64_t i = 0; i < batches; i++) {
        uint64_t start = now_ns();

        batch(kind, pools, used, rounds, burst);
        samples_add(&s, now_ns() - start, rounds * used * burst);
    }
    samples_print("ns", &s);
}
