/* SPDX-License-Identifier: MIT */
/* handle.c - this process's private copy of what a cache is; see struct us_cache. */
#include <stdlib.h>

#include "cache/names.h"
#include "slab/geometry.h"

/* Is a table of a cache (image, shuffle) inside the pages for objects? */
static bool block_valid(const struct us_arena *a, uint64_t offset, uint64_t bytes)
{
    return offset % US_PAGE_SIZE == 0 && offset - a->data_start < a->data_bytes &&
           bytes <= a->data_bytes - (offset - a->data_start);
}

/* Copies what never changes, and believes none of it: a handle is used without checks.
 */
static us_err fill_handle(struct us_arena *a, uint32_t id, struct us_cache *s)
{
    struct us_kmem_cache copy = *us_cache_shared(a, id); /* read once, then checked */
    const struct us_kmem_cache *shared = &copy;
    uint32_t plane = 0;

    s->arena = a;
    s->base = a->base;
    s->self = a->self;
    s->cpu_count = a->cpus;
    s->id = id;
    s->shared = us_cache_shared(a, id);
    s->generation = shared->generation;
    s->tid_generation = (uint32_t)us_init_tid(s->generation, 0);
    s->cpus = (char *)(s->shared + 1);
    s->node_array = (void *)(s->cpus + a->cpus * sizeof(struct us_kmem_cache_cpu));
    s->size = shared->size;
    s->object_size = shared->object_size;
    s->offset = shared->offset;
    s->flags = shared->flags;
    s->order = shared->order;
    s->objects = shared->objects;
    s->min_order = shared->min_order;
    s->min_objects = shared->min_objects;
    s->has_ctor = shared->has_ctor;
    s->random = shared->flags & US_FREELIST_HARDENED ? shared->random | 1 : 0;
    if (s->size < US_WORD || s->size % US_WORD != 0 || s->size > a->data_bytes ||
        s->object_size > s->size || s->offset > s->size - US_WORD ||
        s->order >= a->at.orders || s->min_order > s->order || s->objects < 1 ||
        s->objects > US_OBJECTS_MAX ||
        s->objects != us_order_objects(s->order, s->size) || s->min_objects < 1 ||
        s->min_objects != us_order_objects(s->min_order, s->size) ||
        shared->min_partial > INT32_MAX) {
        return us_damaged(a, "the description of a cache");
    }
    s->reciprocal = UINT64_MAX / s->size + 1;
    s->slab_bytes = s->objects * s->size;
    s->data_start = a->data_start;
    s->span = a->data_bytes - s->size;
    while (plane < US_TAG_PLANES - 1 && s->size >= US_TAG_GRANULE(plane + 1)) {
        plane++;
    }
    s->tag_shift = plane + 3;
    s->tags = (uint16_t *)us_at(a, a->at.tags[plane]) - (a->data_start >> s->tag_shift);
    if ((shared->image != 0 && !block_valid(a, shared->image, s->object_size)) ||
        (shared->shuffle != 0 && !block_valid(a, shared->shuffle, 2ULL * s->objects))) {
        return us_damaged(a, "the description of a cache");
    }
    s->image = shared->image != 0 ? us_at(a, shared->image) : NULL;
    s->shuffle = shared->shuffle != 0 ? us_at(a, shared->shuffle) : NULL;
    return US_OK;
}

static void drop_handles(struct us_cache *s)
{
    while (s != NULL) {
        struct us_cache *older = s->older;

        free(s);
        s = older;
    }
}

/*
 * The handle of a cache; a new one if the id has been given to another cache. Old
 * handles stay until the arena is detached: somebody may hold one, and is told that it
 * is stale.
 */
struct us_cache *us_cache_handle(struct us_arena *a, uint32_t id)
{
    struct us_cache *s;

    if (!us_id_valid(a, id)) {
        (void)us_damaged(a, "the list of caches");
        return NULL;
    }
    s = us_load_pointer(&a->handles[id]);
    if (s != NULL &&
        s->generation == us_load_relaxed32(&us_cache_shared(a, id)->generation)) {
        return s;
    }
    us_mutex_lock(&a->handles_lock);
    s = a->handles[id];
    if (s == NULL ||
        s->generation != us_load_relaxed32(&us_cache_shared(a, id)->generation)) {
        struct us_cache *old = s;

        s = calloc(1, sizeof(*s));
        if (s == NULL) {
            us_fail(US_ENOMEM, "no memory for the handle of a cache");
        } else if (fill_handle(a, id, s) != US_OK) {
            free(s);
            s = NULL;
        } else {
            s->older = old;
            a->drop_handle = drop_handles;
            us_store_pointer(&a->handles[id], s);
        }
    }
    (void)pthread_mutex_unlock(&a->handles_lock);
    return s;
}

static us_err gone(const struct us_cache *s)
{
    return us_fail(US_ENOCACHE,
                   "arena '%s': cache id %u has been destroyed; create it again",
                   s->arena->name, s->id);
}

static bool in_state(const struct us_cache *s, enum us_cache_state state)
{
    return us_load_acquire32(&s->shared->state) == state &&
           us_load_relaxed32(&s->shared->generation) == s->generation;
}

us_err us_cache_alive(const struct us_cache *s)
{
    return US_LIKELY(in_state(s, US_CACHE_LIVE)) ? US_OK : gone(s);
}

us_err us_cache_usable(const struct us_cache *s)
{
    return US_LIKELY(in_state(s, US_CACHE_LIVE)) || in_state(s, US_CACHE_DYING)
               ? US_OK
               : gone(s);
}

us_err us_cache_settled(struct us_cache *s, struct us_thread *t)
{
    us_err err = US_OK;

    if (US_UNLIKELY(in_state(s, US_CACHE_DYING))) {
        err = us_registry_hold(s->arena, t);
        if (err == US_OK) {
            us_unlock(t, &s->arena->header->cache_lock);
        }
    }
    return err == US_OK ? us_cache_alive(s) : err;
}
