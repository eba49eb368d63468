/* SPDX-License-Identifier: MIT */
/*
 * cache.h - objects to callers: CPU slabs, chains, node lists, and the life of a cache.
 *
 * Lock order, outer to inner: cache_lock of the arena > lock of a CPU slot > list_lock
 * of a node. No lock is held while a constructor runs or pages for a new slab are
 * sought.
 */
#ifndef US_CACHE_CACHE_H
#define US_CACHE_CACHE_H

#include "base/cpu.h"
#include "slab/slab.h"

/* ---- transaction ids: event:39 generation:16 cpu:9 ---- */

#define US_TID_CPU_BITS 9
#define US_TID_STEP     (1ULL << (US_TID_CPU_BITS + 16))
US_STATIC(US_CPUS_MAX <= 1 << US_TID_CPU_BITS);

US_INLINE uint64_t us_init_tid(uint32_t generation, uint32_t cpu)
{
    return (uint64_t)(uint16_t)generation << US_TID_CPU_BITS | cpu;
}

/* The events wrap, cpu and generation stay. */
US_INLINE uint64_t us_next_tid(uint64_t tid)
{
    return tid + US_TID_STEP;
}

US_INLINE uint32_t us_tid_to_cpu(uint64_t tid)
{
    return (uint32_t)tid & ((1u << US_TID_CPU_BITS) - 1);
}

US_INLINE uint64_t us_tid_to_event(uint64_t tid)
{
    return tid / US_TID_STEP;
}

/* Is it a tid of this cache, not of one that had or will have the same id? */
US_INLINE bool us_tid_ours(const struct us_cache *s, uint64_t tid)
{
    return (((uint32_t)tid ^ s->tid_generation) & (0xffffu << US_TID_CPU_BITS)) == 0;
}

/* ---- the CPU slab, as kmem_cache_cpu.active says it ---- */

struct us_active {
    uint32_t page, objects, node;
};

US_INLINE struct us_active us_active_read(uint64_t raw)
{
    struct us_active active = {
        .page = (uint32_t)(raw >> US_PAGE_SHIFT),
        .objects = (uint32_t)(raw >> 48),
        .node = (uint32_t)(raw & (US_PAGE_SIZE - 1)),
    };
    return active;
}

US_INLINE uint64_t us_active_pack(struct us_active active)
{
    return active.node | us_page_offset(active.page) | (uint64_t)active.objects << 48;
}

/*
 * Can this CPU slab exist and hold an object at `object`? Everything that a fast path
 * uses as an address has passed here; the words may have been written by anybody.
 */
US_INLINE bool us_active_holds(const struct us_cache *s, uint64_t active,
                               uint64_t object)
{
    uint64_t distance =
        object - (active & (US_OFFSET_MASK & ~(uint64_t)(US_PAGE_SIZE - 1)));
    uint64_t index = (uint64_t)(((unsigned __int128)distance * s->reciprocal) >> 64);

    return object - s->data_start <= s->span && index < active >> 48 &&
           index * s->size == distance;
}

/*
 * The same for an object that is about to be taken, without the division: it lies in
 * the slab's bytes, so no word of anybody leads outside. That it is the start of an
 * object is checked when it is freed, and at every slow path.
 */
US_INLINE bool us_active_covers(const struct us_cache *s, uint64_t active,
                                uint64_t object)
{
    uint64_t distance =
        object - (active & (US_OFFSET_MASK & ~(uint64_t)(US_PAGE_SIZE - 1)));

    return active >> 48 != 0 && distance < s->slab_bytes &&
           object - s->data_start <= s->span;
}

/* One request on its way through the sources. */
struct us_request {
    struct us_cache *s;
    struct us_thread *t;
    struct us_kmem_cache_cpu *c;
    uint32_t cpu;
    int node;
    uint32_t gfp;
    bool locked; /* the slow path holds the lock of the CPU slot */
};

/* Slot for a `cpu` argument: -1 is the CPU that runs us. */
US_INLINE uint32_t us_cpu_slot(const struct us_arena *a)
{
    uint32_t cpu = us_cpu_now();

    return US_LIKELY(cpu < a->cpus) ? cpu : cpu % a->cpus;
}

/* Fills in a request after checking its arguments. */
us_err us_request_init(struct us_cache *s, uint32_t gfp, int cpu, int node,
                       struct us_request *ret);
/* Is the cache still the one this handle was made for? */
us_err us_cache_alive(const struct us_cache *s);
/* The same, or about to be destroyed: what it has may be used, so destroy will refuse.
 */
us_err us_cache_usable(const struct us_cache *s);
/* The same as alive, after waiting for a destroy that is under way. No lock is held. */
us_err us_cache_settled(struct us_cache *s, struct us_thread *t);

/* Bytes that belong to the user; merging may make them more. */
US_INLINE uint64_t us_object_bytes(const struct us_cache *s)
{
    uint64_t bytes = us_load_relaxed64(&s->shared->object_size);

    return bytes <= s->size ? bytes : s->size;
}

/* ---- cpu.c: one CPU slot; the caller holds its lock ---- */

/*
 * A lock of the cache for a caller who holds none of it; US_ELOCKED: it cannot be had,
 * in milliseconds or (patient: there is no other way to go) in two seconds.
 */
us_err us_cache_lock(struct us_cache *s, struct us_thread *t, uint32_t *word,
                     bool patient);
/* Unpublishes the CPU slab and takes its freelist. */
uint64_t us_cpu_detach(struct us_kmem_cache_cpu *c);
void us_cpu_install(struct us_cache *s, struct us_kmem_cache_cpu *c, uint32_t page,
                    uint32_t objects, uint64_t freelist);
/* Linux: get_freelist(). 0: the slab is full now, and nobody's. */
us_err us_get_freelist(struct us_cache *s, struct us_kmem_cache_cpu *c, uint32_t page,
                       uint64_t *ret);
/* Linux: deactivate_slab(): `freelist` goes back to the slab, the slab to where it
 * fits. */
us_err us_deactivate_slab(struct us_cache *s, struct us_thread *t,
                          struct us_kmem_cache_cpu *c, uint32_t page,
                          uint64_t freelist);
/* Linux: put_cpu_partial(). What overflows is in *drained: not under the lock. */
us_err us_put_cpu_partial_locked(struct us_cache *s, struct us_kmem_cache_cpu *c,
                                 uint32_t page, bool drain, uint32_t *drained);
/* Linux: __put_partials(): a detached chain of frozen slabs goes to the node lists. */
us_err us_put_partials(struct us_cache *s, struct us_thread *t,
                       struct us_kmem_cache_cpu *c, uint32_t chain);
/* A frozen slab is its node's, whose lock is held; true: it is to be discarded. */
bool us_unfreeze(struct us_cache *s, struct us_kmem_cache_node *n, uint32_t page,
                 uint32_t *fails);
/* Blocks that were slabs, linked like a chain: free. How many there were. */
uint32_t us_free_pile(struct us_cache *s, struct us_thread *t, uint32_t pile);
us_err us_flush_slab_locked(struct us_cache *s, struct us_thread *t,
                            struct us_kmem_cache_cpu *c);
us_err us_flush_chain_locked(struct us_cache *s, struct us_thread *t,
                             struct us_kmem_cache_cpu *c);
us_err us_flush_cpu(struct us_cache *s, struct us_thread *t, uint32_t cpu);
us_err us_flush_all(struct us_cache *s, struct us_thread *t, bool patient);

/* ---- node.c: partial lists; the caller holds list_lock unless said otherwise ---- */

/* False: the lock cannot be had, and there is another way to go. */
bool us_list_lock(struct us_cache *s, struct us_thread *t,
                  struct us_kmem_cache_node *n);
void us_list_unlock(struct us_cache *s, struct us_thread *t,
                    struct us_kmem_cache_node *n);
us_err us_add_partial(struct us_cache *s, uint32_t page, bool tail);
us_err us_remove_partial(struct us_cache *s, uint32_t page);
/*
 * Linux: get_partial(). A slab from a node list, frozen, its objects in *freelist (page
 * 0: none); more may go to the chain of the request's CPU, whose lock the caller holds.
 * Takes the list locks itself.
 */
us_err us_get_partial(struct us_request *r, uint32_t gfp, uint32_t *page,
                      uint64_t *freelist);
/* One object off a listed slab in place; US_ENOMEM: none. Takes the lock itself. */
us_err us_alloc_listed(struct us_request *r, uint32_t node, uint64_t *ret);
us_err us_shrink_node(struct us_cache *s, struct us_thread *t, uint32_t node, bool sort,
                      bool patient);

/* ---- stray.c: slabs whose list cannot be had; the list lock is not held ---- */

/* The slab was given the mark US_MARK_STRAY. */
void us_stray(struct us_cache *s, struct us_thread *t, uint32_t page);
/* To the list with them, if its lock can be had at once. */
void us_settle_strays(struct us_cache *s, struct us_thread *t,
                      struct us_kmem_cache_node *n);
/* Like us_get_partial(), from the strays. The lock of the request's slot is held. */
void us_take_stray(struct us_request *r, struct us_kmem_cache_node *n, uint32_t *page,
                   uint64_t *freelist);
/* One object off a stray, which stays one. No lock is held. US_ENOMEM: none. */
us_err us_pop_stray(struct us_request *r, struct us_kmem_cache_node *n, uint64_t *ret);

/* ---- alloc.c and free.c ---- */

/* Checked and named: what `object` is, if it is this process's and of cache `s`. With
 * *shared it is for the holders to say whose it is. */
us_err us_find_object(struct us_cache *s, uint64_t object, uint32_t *page,
                      bool *shared);
/* Tag of the object at `page` that came straight from the page allocator. */
uint16_t *us_large_tag(const struct us_arena *a, uint32_t page);
/* How many bytes of it are its owner's. */
uint64_t us_large_usable(const struct us_arena *a, uint32_t page);
/* Linux: __slab_free(): objects head..tail of one slab, known to be one of `s`,
 * untagged. */
us_err us_slab_free(struct us_cache *s, struct us_thread *t, uint32_t cpu,
                    uint32_t page, uint64_t head, uint64_t tail, uint32_t count);
uint64_t us_alloc_one(struct us_request *r);
us_err us_free_one(struct us_cache *s, struct us_thread *t, uint32_t cpu,
                   uint64_t object);
/* Sets the tag of an object just taken from a freelist. */
us_err us_claim(struct us_cache *s, uint64_t object);

/* ---- cache.c: registry of caches ---- */

/* Handle of the live cache with this id, or NULL with the reason. */
struct us_cache *us_cache_handle(struct us_arena *a, uint32_t id);
struct us_kmem_cache *us_cache_shared(const struct us_arena *a, uint32_t id);
struct us_name *us_name_at(const struct us_arena *a, uint32_t entry);
/* The size cache of one kmalloc family and class; made at its first use. */
struct us_cache *us_kmalloc_cache(struct us_arena *a, uint32_t family, uint32_t index);

/*
 * Before anybody is told that memory is out: flushes every CPU of every cache, discards
 * empty slabs, gives free pages back. The caller holds no lock.
 */
void us_reclaim(struct us_arena *a, struct us_thread *t);

/* us_cache_create() for names that only the engine may give. */
us_err us_cache_create_any(us_arena *a, const char *name,
                           const struct us_cache_config *config, us_cache **ret);

/* ---- mend.c: one cache after a death ---- */

enum us_mended {
    US_MENDED,
    US_MENDED_IN_DOUBT, /* and to be mended again */
    US_MENDED_NOT       /* somebody alive holds a lock */
};

/*
 * Rebuilds freelists, lists, chains and counters of the cache from its owner tags. The
 * caller is the only reaper, and holds no lock.
 */
enum us_mended us_mend_cache(struct us_arena *a, struct us_thread *t, uint32_t id);
/* Does a dead thread hold a lock of this cache? */
bool us_cache_orphaned(const struct us_arena *a, uint32_t id);
/* registry.c: names and the list of caches after a death; cache_lock is held. */
bool us_mend_registry(struct us_arena *a, struct us_thread *t);

/* ---- bulk.c ---- */

/* Objects of any slabs of `s`, tags already 0. The array is rearranged. */
us_err us_free_detached(struct us_cache *s, struct us_thread *t, uint32_t cpu, size_t n,
                        void **objects);

#endif
