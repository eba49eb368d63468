/* SPDX-License-Identifier: MIT */
/* stats.c - counters and summaries, as sysfs shows them. Nothing here writes but a
 * clear. */
#include <string.h>

#include "cache/names.h"

const char *us_stat_name(enum us_stat item)
{
    static const char *const names[] = {
#define US_X(upper, lower) #lower,
        US_STATS(US_X)
#undef US_X
    };

    return (unsigned)item < US_STAT_ITEMS ? names[item] : "unknown";
}

uint64_t us_cache_counter(us_cache *s, enum us_stat item, int cpu)
{
    if ((unsigned)item >= US_STAT_ITEMS || cpu < 0 || cpu >= (int)s->arena->cpus) {
        return 0;
    }
    return us_load_relaxed64(&us_cpu(s, (uint32_t)cpu)->stat[item]);
}

void us_cache_counters_clear(us_cache *s)
{
    for (uint32_t cpu = 0; us_cache_alive(s) == US_OK && cpu < s->arena->cpus; cpu++) {
        for (int item = 0; item < US_STAT_ITEMS; item++) {
            us_store_relaxed64(&us_cpu(s, cpu)->stat[item], 0);
        }
    }
}

/* Free objects on the listed slabs of one node; bounded, and 0 for what makes no sense.
 */
static uint64_t partial_free(struct us_cache *s, const struct us_kmem_cache_node *n)
{
    uint64_t steps = s->arena->at.data_pages, count = 0;

    for (uint32_t page = us_load_relaxed32(&n->head); page != 0 && steps-- != 0;) {
        const struct us_page *p = us_page_at(s->arena, page);
        struct us_slab_word word;

        if (p == NULL) {
            break;
        }
        word = us_slab_read(us_slab_load(p));
        count += word.inuse <= word.objects ? word.objects - word.inuse : 0;
        page = us_load_relaxed32(&p->next);
    }
    return count;
}

/*
 * Counts under the locks of lists and chains: each number is right, at its own moment.
 * Without a lock that somebody does not let go of, it may be off.
 */
static us_err count_places(struct us_cache *s, struct us_thread *t,
                           struct us_cache_info *ret)
{
    bool locked;

    for (uint32_t node = 0; node < s->arena->nodes; node++) {
        struct us_kmem_cache_node *n = us_node(s, node);

        ret->slabs += us_load_relaxed64(&n->nr_slabs);
        ret->objects_total += us_load_relaxed64(&n->total_objects);
        locked = us_list_lock(s, t, n);
        ret->partial += us_load_relaxed32(&n->nr_partial);
        ret->partial_free += partial_free(s, n);
        if (locked) {
            us_list_unlock(s, t, n);
        }
    }
    for (uint32_t cpu = 0; cpu < s->arena->cpus; cpu++) {
        struct us_kmem_cache_cpu *c = us_cpu(s, cpu);
        const struct us_page *p;
        uint32_t chain;

        locked = us_cache_lock(s, t, &c->lock, false) == US_OK;
        p = us_page_at(s->arena, us_load_relaxed32(&c->partial));
        chain = p != NULL ? us_load_relaxed32(&p->chain_count) : 0;
        ret->chain_slabs += chain;
        ret->cpu_slabs += (us_load_relaxed64(&c->active) != 0) + chain;
        if (locked) {
            us_unlock(t, &c->lock);
        }
    }
    return US_OK;
}

us_err us_cache_stat(us_cache *s, struct us_cache_info *ret)
{
    const struct us_kmem_cache *shared = s->shared;
    struct us_geometry *g = &ret->geometry;
    struct us_thread *t = us_thread_self(s->arena);
    us_err err = t == NULL ? us_last_code() : us_cache_alive(s);
    uint32_t name = shared->name;

    if (err != US_OK) {
        return err;
    }
    memset(ret, 0, sizeof(*ret));
    if (us_name_valid(s->arena, name)) {
        memcpy(ret->name, us_name_at(s->arena, name)->name, US_NAME_MAX);
    }
    ret->id = s->id;
    g->object_size = us_object_bytes(s);
    g->size = s->size;
    g->align = shared->align;
    g->offset = (uint32_t)s->offset;
    g->inuse = shared->inuse;
    g->order = s->order;
    g->objects = s->objects;
    g->min_order = s->min_order;
    g->min_objects = s->min_objects;
    g->min_partial = us_load_relaxed32(&shared->min_partial);
    g->cpu_partial = us_load_relaxed32(&shared->cpu_partial);
    g->cpu_partial_slabs = us_load_relaxed32(&shared->cpu_partial_slabs);
    ret->flags = s->flags;
    ret->refcount = shared->refcount;
    ret->defrag_ratio = shared->defrag_ratio;
    ret->has_ctor = shared->has_ctor != 0;
    ret->useroffset = shared->useroffset;
    ret->usersize = shared->usersize;
    return count_places(s, t, ret);
}
