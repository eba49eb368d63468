/* SPDX-License-Identifier: MIT */
/*
 * pair.c - allocate, touch, free, over and over: the hottest path there is.
 *
 * threads=0: the process has one thread; 1: another one exists and sleeps (glibc then
 * takes its locks); 2: two threads do the same at once, from one pool.
 */
#include <unistd.h>

#include "bench.h"

INLINE void pairs(enum kind kind, struct pool *p, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        void *object = take(kind, p);

        touch(object, i);
        give(kind, p, object);
    }
}

static NOINLINE void batch(enum kind kind, struct pool *p, uint64_t count)
{
    WITH_KIND(kind, pairs, p, count);
}

/* The first slab is not what is measured, and its absence would be a crash in a loop.
 */
static void first_pair(enum kind kind, struct pool *p)
{
    void *object = NULL;

    WITH_KIND(kind, object = take, p);
    if (object == NULL) {
        die("%s", us_last_error());
    }
    WITH_KIND(kind, give, p, object);
}

static void measure(enum kind kind, struct pool *p, struct samples *ret)
{
    uint64_t batches = option("batches", 50), count = option("count", 20000);

    batch(kind, p, count);
    for (uint64_t i = 0; i < batches; i++) {
        uint64_t start = now_ns();

        batch(kind, p, count);
        samples_add(ret, now_ns() - start, count);
    }
}

struct partner {
    enum kind kind;
    struct pool *pool;
    pthread_barrier_t barrier;
};

static void *idle(void *arg)
{
    pthread_barrier_wait(arg);
    for (;;) {
        pause();
    }
    return NULL;
}

static void *work(void *arg)
{
    struct partner *partner = arg;
    struct samples own = {0};

    first_pair(partner->kind, partner->pool);
    pthread_barrier_wait(&partner->barrier);
    measure(partner->kind, partner->pool, &own);
    return NULL;
}

void workload_pair(enum kind kind)
{
    uint64_t threads = option("threads", 0);
    struct samples s = {0};
    struct pool pool;
    struct partner partner = {kind, &pool, {{0}}};
    pthread_t thread;

    arena_open(kind, 64u << 20, UINT64_MAX);
    pool_open(kind, &pool, option("size", 64), 0);
    first_pair(kind, &pool);
    pthread_barrier_init(&partner.barrier, NULL, 2);
    if (threads == 1) {
        pthread_create(&thread, NULL, idle, &partner.barrier);
    } else if (threads == 2) {
        pthread_create(&thread, NULL, work, &partner);
    }
    if (threads > 0) {
        pthread_barrier_wait(&partner.barrier);
    }
    measure(kind, &pool, &s);
    if (threads == 2) {
        pthread_join(thread, NULL);
    }
    samples_print("ns", &s);
}
