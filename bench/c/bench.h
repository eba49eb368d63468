/* SPDX-License-Identifier: MIT */
/*
 * bench.h - what the workloads share: a clock, samples, and four ways to get an object.
 *
 * One process measures one workload with one allocator, for some milliseconds, and
 * prints one line of JSON. bench/run.py calls it again and again, allocators taking
 * turns, so that a noisy moment hits all of them. Which malloc is measured is
 * LD_PRELOAD's choice.
 */
#ifndef BENCH_H
#define BENCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <uslub/uslub.h>

#define INLINE   static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

INLINE uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Nanoseconds per operation, one value per batch. */
struct samples {
    double *ns;
    size_t count, room;
};
void samples_add(struct samples *s, uint64_t ns, uint64_t operations);
/* {"NAME": [..], }: with the comma, inside an object that main() opened. */
void samples_print(const char *name, const struct samples *s);

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- where objects come from ---- */

enum kind {
    MALLOC, /* malloc(size), whichever is loaded */
    USLUB,  /* a cache in an anonymous arena */
    LOCKED, /* a free list under a pthread mutex: the plain way to share a pool */
    HEAP,   /* mi_heap_malloc(): a mimalloc heap for each cache */
};

struct locked_list {
    pthread_mutex_t mutex;
    void *head;
    size_t size;
};

struct pool {
    size_t size;
    us_cache *cache;
    struct locked_list *list;
    void *heap;
};

extern us_arena *arena;
extern void *(*heap_new)(void);
extern void *(*heap_malloc)(void *heap, size_t size);

/* Makes the arena if `kind` needs one; `keep`: free bytes that stay committed. */
void arena_open(enum kind kind, uint64_t size, uint64_t keep);
void pool_open(enum kind kind, struct pool *p, size_t size, unsigned number);
void *locked_list_grow(struct locked_list *list);

INLINE void *take(enum kind kind, struct pool *p)
{
    if (kind == MALLOC) {
        return malloc(p->size);
    }
    if (kind == USLUB) {
        return us_alloc(p->cache);
    }
    if (kind == HEAP) {
        return heap_malloc(p->heap, p->size);
    }
    pthread_mutex_lock(&p->list->mutex);
    void *object = p->list->head;
    if (object != NULL) {
        p->list->head = *(void **)object;
    } else {
        object = locked_list_grow(p->list);
    }
    pthread_mutex_unlock(&p->list->mutex);
    return object;
}

INLINE void give(enum kind kind, struct pool *p, void *object)
{
    if (kind == USLUB) {
        us_free(p->cache, object);
    } else if (kind == LOCKED) {
        pthread_mutex_lock(&p->list->mutex);
        *(void **)object = p->list->head;
        p->list->head = object;
        pthread_mutex_unlock(&p->list->mutex);
    } else {
        free(object);
    }
}

/* The user's store; also keeps the compiler from dropping the pair. */
INLINE void touch(void *object, uint64_t value)
{
    *(volatile uint64_t *)object = value;
}

/* Calls an always-inline f with `kind` as a constant: no indirect call in the loop. */
#define WITH_KIND(kind, f, ...)                                                        \
    do {                                                                               \
        switch (kind) {                                                                \
        case MALLOC:                                                                   \
            f(MALLOC, __VA_ARGS__);                                                    \
            break;                                                                     \
        case USLUB:                                                                    \
            f(USLUB, __VA_ARGS__);                                                     \
            break;                                                                     \
        case LOCKED:                                                                   \
            f(LOCKED, __VA_ARGS__);                                                    \
            break;                                                                     \
        case HEAP:                                                                     \
            f(HEAP, __VA_ARGS__);                                                      \
            break;                                                                     \
        }                                                                              \
    } while (0)

/* ---- options, as KEY=VALUE on the command line ---- */

uint64_t option(const char *key, uint64_t otherwise);
bool option_is(const char *key, const char *value);

/* ---- workloads; each prints its part of the answer ---- */

void workload_pair(enum kind kind);
void workload_live(enum kind kind);
void workload_caches(enum kind kind);
void workload_large(enum kind kind);
void workload_memory(enum kind kind);
void workload_handoff(enum kind kind);
void workload_recovery(enum kind kind);

#endif
