/* SPDX-License-Identifier: MIT */
/*
 * slab.h - objects in slabs: where they are, who owns them, how free ones are linked;
 * and the birth and death of a slab.
 *
 * Does not: decide which slab serves a request (cache/).
 */
#ifndef US_SLAB_SLAB_H
#define US_SLAB_SLAB_H

#include "arena/arena.h"
#include "slab/slab_word.h"

/* This process's handle of one cache. Written once; what can change is read from
 * `shared`. */
struct us_cache {
    /* What a fast path reads, together. */
    char *base;
    const struct us_self *self;
    char *cpus; /* kmem_cache_cpu of CPU 0 */
    uint32_t cpu_count;
    uint32_t tag_shift;
    uint16_t *tags;            /* this cache's plane, as if it began at offset 0 */
    uint64_t data_start, span; /* an object starts at most `span` after data_start */
    uint64_t offset;           /* of the link in a free object */
    uint64_t random;           /* secret of hardened links; 0: plain links */
    uint32_t tid_generation;   /* as it stands in a tid */
    uint64_t slab_bytes;       /* of all objects of a slab */
    uint64_t size, reciprocal; /* ceil(2^64 / size) */

    struct us_arena *arena;
    struct us_kmem_cache *shared;
    struct us_kmem_cache_node *node_array;
    uint64_t object_size;
    uint32_t id, generation, flags;
    uint32_t order, objects, min_order, min_objects;
    uint32_t has_ctor;
    const char *image; /* initial content, or NULL */
    const uint16_t *shuffle;
    us_ctor_fn ctor;
    void *ctor_context;
    struct us_cache *older; /* handle of the cache that had this id before */
};

/* ---- where objects are ---- */

/* Index of the object that starts at `offset` in the slab at `page`. */
US_INLINE bool us_object_index(const struct us_cache *s, uint32_t page,
                               uint32_t objects, uint64_t offset, uint32_t *ret)
{
    uint64_t distance = offset - us_page_offset(page);
    uint64_t index = (uint64_t)(((unsigned __int128)distance * s->reciprocal) >> 64);

    *ret = (uint32_t)index;
    return index < objects && index * s->size == distance;
}

US_INLINE uint64_t us_object_offset(const struct us_cache *s, uint32_t page,
                                    uint32_t index)
{
    return us_page_offset(page) + index * s->size;
}

/* The objects of a slab of this order; 0: no slab of this cache has it. */
US_INLINE uint32_t us_objects_of_order(const struct us_cache *s, uint32_t order)
{
    return order == s->order ? s->objects : order == s->min_order ? s->min_objects : 0;
}

/*
 * As many objects as the slab at `page` says it has, if it may: what the word says can
 * be more than its block has room for.
 */
US_INLINE uint32_t us_objects_here(const struct us_cache *s, uint32_t page,
                                   uint32_t order)
{
    uint32_t most = us_objects_of_order(s, order);
    uint32_t says = us_slab_read(us_slab_load(s->arena->pages + page)).objects;

    return says < most ? says : most;
}

/* The truth about one object: 0 free, else its owner. */
US_INLINE uint16_t *us_tag(const struct us_cache *s, uint64_t object)
{
    return s->tags + (object >> s->tag_shift);
}

/*
 * What one allocation or free of one object does to its tag. Builds with
 * US_NO_CRASH_SAFETY do none of it, nor keep intents: they show bench/ what it costs,
 * and are good for nothing else.
 */
#ifndef US_NO_CRASH_SAFETY
US_INLINE uint16_t us_tag_look(const struct us_cache *s, const uint16_t *tag)
{
    (void)s;
    return us_load_acquire16(tag);
}

US_INLINE bool us_tag_is(const uint16_t *tag, uint16_t owner)
{
    return us_load_relaxed16(tag) == owner;
}

US_INLINE void us_tag_set(uint16_t *tag, uint16_t owner)
{
    us_store_release16(tag, owner);
}
#else
US_INLINE uint16_t us_tag_look(const struct us_cache *s, const uint16_t *tag)
{
    (void)tag;
    return us_me(s->arena);
}

US_INLINE bool us_tag_is(const uint16_t *tag, uint16_t owner)
{
    (void)tag, (void)owner;
    return true;
}

US_INLINE void us_tag_set(uint16_t *tag, uint16_t owner)
{
    (void)tag, (void)owner;
}
#endif

/* ---- links between free objects ---- */

US_INLINE uint64_t us_link_code(const struct us_cache *s, uint64_t where,
                                uint64_t value)
{
    return s->random == 0 ? value : value ^ s->random ^ __builtin_bswap64(where);
}

/* Linux: get_freepointer(), mm/slub.c, v6.18. `object` is inside the arena. */
US_INLINE uint64_t us_link_get(const struct us_cache *s, uint64_t object)
{
    uint64_t where = object + s->offset;

    return us_link_code(s, where, us_load_relaxed64((void *)(s->base + where)));
}

/* The same when somebody else may own the object by now; see us_load_speculative64().
 */
US_INLINE uint64_t us_link_guess(const struct us_cache *s, uint64_t object)
{
    uint64_t where = object + s->offset;

    return us_link_code(s, where, us_load_speculative64((void *)(s->base + where)));
}

US_INLINE void us_link_set(const struct us_cache *s, uint64_t object, uint64_t next)
{
    uint64_t where = object + s->offset;

    us_store_relaxed64((void *)(s->base + where), us_link_code(s, where, next));
}

/*
 * Follows a chain of free objects of one slab: its length and last object. US_ECORRUPT
 * if it leaves the slab or does not end.
 */
us_err us_chain_measure(const struct us_cache *s, uint32_t page, uint32_t objects,
                        uint64_t first, uint32_t *count, uint64_t *last);

/* ---- parts of a cache ---- */

US_INLINE struct us_kmem_cache_cpu *us_cpu(const struct us_cache *s, uint32_t cpu)
{
    return (struct us_kmem_cache_cpu *)(void *)(s->cpus +
                                                cpu * sizeof(struct us_kmem_cache_cpu));
}

US_INLINE struct us_kmem_cache_node *us_node(const struct us_cache *s, uint32_t node)
{
    return s->node_array + node;
}

US_INLINE struct us_kmem_cache_node *us_slab_node(const struct us_cache *s,
                                                  uint32_t page)
{
    return us_node(s, us_page_node(s->arena, page));
}

US_INLINE void us_stat_add(struct us_kmem_cache_cpu *c, enum us_stat item, uint64_t n)
{
    us_count64(&c->stat[item], n);
}

/* The descriptor of a slab of this cache, or NULL with US_ECORRUPT. */
struct us_page *us_slab_at(const struct us_cache *s, uint32_t page);

/* ---- birth and death ---- */

/* A block that will be a slab; its objects are linked, and nobody can find it yet. */
struct us_fresh {
    struct us_run run;
    uint64_t first; /* object */
    uint32_t objects;
};
/* Linux: allocate_slab(), mm/slub.c, v6.18. Holds no lock; may run a constructor. */
us_err us_slab_new(struct us_cache *s, struct us_thread *t, uint32_t gfp, uint32_t cpu,
                   int node, struct us_fresh *ret);
/*
 * It is a slab from now on, in the state that `word` says. The caller holds the lock of
 * the slot or list that the slab is for: recovery, which holds all locks of a cache,
 * meets no slab that is in somebody's hands.
 */
void us_slab_publish(struct us_cache *s, const struct us_fresh *fresh,
                     struct us_slab_word word);
/* The way back, under the same lock: nobody can reach the slab, it becomes a block. */
void us_slab_unpublish(struct us_cache *s, struct us_thread *t, uint32_t page);
/* Both: its pages go back. */
void us_slab_discard(struct us_cache *s, struct us_thread *t, uint32_t page);

#endif
