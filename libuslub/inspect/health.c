/* SPDX-License-Identifier: MIT */
/* health.c - what recovery has done and what is owed; who is in the middle of what. */
#include <string.h>

#include "cache/names.h"

/* The cache with that id, or NULL; what says so may itself be damaged. */
static const struct us_kmem_cache *cache_at(const struct us_arena *a, uint32_t id)
{
    const struct us_kmem_cache *s = us_cache_shared(a, id);

    return us_committed(a, (uint64_t)((const char *)s - a->base)) &&
                   us_load_relaxed32(&s->state) != US_CACHE_FREE
               ? s
               : NULL;
}

void us_cache_glance(us_arena *a, void (*fn)(uint32_t, const char *, bool, void *),
                     void *arg)
{
    uint32_t high = us_load_relaxed32(&a->header->cache_high);

    for (uint32_t id = 1; id <= high && id <= a->config.caches_max; id++) {
        const struct us_kmem_cache *s = cache_at(a, id);
        char name[US_NAME_MAX + 1] = "";
        uint32_t entry = s == NULL ? UINT32_MAX : us_load_relaxed32(&s->name);

        if (entry >= 1 && entry <= a->config.caches_max * 2) {
            const struct us_name *own = us_name_at(a, entry);

            if (us_committed(a, (uint64_t)((const char *)own - a->base))) {
                memcpy(name, own->name, US_NAME_MAX);
            }
        }
        if (s != NULL) {
            fn(id, name, us_load_relaxed32(&s->suspect) != 0, arg);
        }
    }
}

static void count_doubtful(uint32_t id, const char *name, bool doubtful, void *arg)
{
    (void)id;
    (void)name;
    *(uint32_t *)arg += doubtful;
}

us_err us_health(us_arena *a, struct us_health *ret)
{
    const struct us_header *h = a->header;

    memset(ret, 0, sizeof(*ret));
    ret->poisoned = us_load_relaxed32(&h->poisoned) != 0;
    ret->poisoned_objects = us_load_relaxed32(&h->poisoned_objects);
    ret->poisoned_slabs = us_load_relaxed32(&h->poisoned_slabs);
    ret->pages_doubtful = us_load_relaxed32(&h->pages_suspect) != 0;
    ret->processes = us_load_relaxed32(&h->reaped);
    ret->threads = us_load_relaxed32(&h->reaped_threads);
    ret->inside = us_load_relaxed32(&h->reaped_inside);
    ret->objects = us_load_relaxed64(&h->reaped_objects);
    ret->caches = us_load_relaxed64(&h->mended_caches);
    ret->slabs = us_load_relaxed64(&h->mended_slabs);
    ret->blocks = us_load_relaxed64(&h->mended_blocks);
    ret->last_ns = us_load_relaxed64(&h->reap_last_ns);
    ret->max_ns = us_load_relaxed64(&h->reap_max_ns);
    ret->total_ns = us_load_relaxed64(&h->reap_total_ns);
    ret->last_at = us_load_relaxed64(&h->reap_last_at);
    us_cache_glance(a, count_doubtful, &ret->doubtful);
    return US_OK;
}

static const char *name_of(uint64_t intent)
{
    static const char *const names[] = {
        [US_OP_NONE] = "",
        [US_OP_ALLOC] = "alloc",
        [US_OP_FREE] = "free",
        [US_OP_ALLOC_SLOW] = "alloc, slow path",
        [US_OP_ALLOC_BULK] = "bulk alloc",
        [US_OP_FREE_BULK] = "bulk free",
        [US_OP_FLUSH] = "flush",
        [US_OP_SHRINK] = "shrink",
        [US_OP_PAGES] = "pages",
        [US_OP_CACHE] = "create or destroy a cache",
        [US_OP_MEND] = "repair",
        [US_OP_ADOPT] = "move or adopt",
        [US_OP_SHARE] = "share",
        [US_OP_SEND] = "send",
        [US_OP_TAKE] = "receive",
        [US_OP_DROP] = "drop",
    };
    uint64_t op = intent >> US_OP_SHIFT;

    return op < sizeof(names) / sizeof(names[0]) ? names[op] : "unknown";
}

uint32_t us_arena_threads(us_arena *a, struct us_thread_info *ret, uint32_t max)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high), count = 0;

    for (uint32_t i = 0; i < high && i < US_THREADS; i++) {
        const struct us_thread *t = us_thread_at(a, i);
        bool there = us_committed(a, (uint64_t)((const char *)t - a->base));
        uint32_t state = there ? us_load_acquire32(&t->state) : 0;
        uint32_t process = (state & ~US_THREAD_DEAD) - 1;

        if (state == 0 || process >= US_PROCESSES) {
            continue;
        }
        if (count < max) {
            ret[count] = (struct us_thread_info){
                .slot = i,
                .process = process,
                .tid = (int32_t)us_load_relaxed32(&t->tid),
                .cache = us_load_relaxed32(&t->cache),
                .locks = us_load_relaxed32(&t->locks),
                .operation = name_of(us_load_acquire64(&t->intent)),
                .dead = (state & US_THREAD_DEAD) || !us_process_alive(a, process),
            };
        }
        count++;
    }
    return count;
}
