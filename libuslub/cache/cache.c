/* SPDX-License-Identifier: MIT */
/*
 * cache.c - the life of a cache: names, create, merge, find, destroy.
 *
 * Everything here holds cache_lock (the kernel's slab_mutex). An id is used again only
 * after all ids have been used once; its generation, which is in every tid and in every
 * slab, tells an old handle from the new cache.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "cache/names.h"
#include "slab/geometry.h"

#define GEOMETRY_ONLY                                                                  \
    (US_TYPESAFE_BY_RCU | US_CONSISTENCY_CHECKS | US_RED_ZONE | US_POISON |            \
     US_STORE_USER | US_KMALLOC)
#define US_CACHE_FLAGS (MERGE_SAME | US_HWCACHE_ALIGN | US_NO_MERGE | US_MERGE)
/* What a request and a candidate for merging must have in common. */
#define MERGE_SAME                                                                     \
    (US_RECLAIM_ACCOUNT | US_CACHE_DMA | US_CACHE_DMA32 | US_ACCOUNT |                 \
     US_NO_CPU_PARTIAL | US_FREELIST_HARDENED | US_FREELIST_RANDOM)

#define CTOR_IMAGE    1u
#define CTOR_FUNCTION 2u

static uint64_t round_up(uint64_t x, uint64_t to)
{
    return (x + to - 1) / to * to;
}

/* ---- create ---- */

static us_err check_config(const struct us_arena *a,
                           const struct us_cache_config *config)
{
    if (config->flags & ~(uint32_t)(US_CACHE_FLAGS | GEOMETRY_ONLY)) {
        return us_fail(
            US_EBADARG, "cache flags 0x%x: 0x%x have no meaning; leave them out",
            config->flags, config->flags & ~(uint32_t)(US_CACHE_FLAGS | GEOMETRY_ONLY));
    }
    if (config->flags & GEOMETRY_ONLY) {
        return us_fail(
            US_EBADARG,
            "cache flags 0x%x: debugging and RCU caches are not supported by this "
            "engine; leave 0x%x out",
            config->flags, config->flags & GEOMETRY_ONLY);
    }
    if (config->ctor != NULL && (config->image != NULL || !a->config.anonymous)) {
        return us_fail(
            US_EBADARG,
            "a constructor function works in one process only: give the initial "
            "bytes instead, or use an arena without a name");
    }
    if (config->defrag_ratio > 1024 || config->useroffset < 0 || config->usersize < 0 ||
        (uint64_t)config->useroffset + (uint64_t)config->usersize >
            config->object_size) {
        return us_fail(
            US_EBADARG,
            "user region %d+%d in objects of %llu bytes, defrag ratio %d: the region "
            "must lie in the object and the ratio in 0..1024",
            config->useroffset, config->usersize,
            (unsigned long long)config->object_size, config->defrag_ratio);
    }
    return US_OK;
}

static us_err new_id(struct us_arena *a, uint32_t *ret)
{
    uint32_t high = a->header->cache_high;
    us_err err;

    high = high < a->config.caches_max ? high : a->config.caches_max;
    *ret = 0;
    if (high < a->config.caches_max) {
        *ret = high + 1;
    }
    for (uint32_t id = 1; *ret == 0 && id <= high; id++) {
        if (us_cache_shared(a, id)->state == US_CACHE_FREE) {
            *ret = id;
        }
    }
    if (*ret == 0) {
        return us_fail(
            US_ELIMIT,
            "arena '%s': all %u caches are taken; destroy some, or create a larger "
            "arena (one cache per 16 pages)",
            a->name, a->config.caches_max);
    }
    err = us_commit(a, us_offset(a, us_cache_shared(a, *ret)), a->at.cache_stride);
    if (err == US_OK && *ret > high) {
        us_store_release32(&a->header->cache_high, *ret);
    }
    return err;
}

/* Pages for a table of the cache; 0 and US_OK if `bytes` is 0. */
static us_err table_pages(struct us_arena *a, struct us_thread *t, uint64_t bytes,
                          uint64_t *ret)
{
    struct us_run run;
    us_err err;

    *ret = 0;
    if (bytes == 0) {
        return US_OK;
    }
    err = us_pages_alloc(a, t, 0, (int)us_cpu_slot(a), -1, us_get_order(bytes), bytes,
                         &run);
    if (err == US_OK) {
        us_pages_publish(a, run.page, US_BLOCK_META);
        *ret = us_page_offset(run.page);
    }
    return err;
}

static void free_table(struct us_arena *a, struct us_thread *t, uint64_t offset)
{
    uint64_t page = offset >> US_PAGE_SHIFT;
    uint32_t order;

    if (us_page_valid(a, page) &&
        us_block_state(a, (uint32_t)page, &order) == US_BLOCK_META) {
        us_pages_unpublish(a, t, (uint32_t)page);
        us_pages_free(a, t, (uint32_t)page);
    }
}

static void free_tables(struct us_arena *a, struct us_thread *t,
                        struct us_kmem_cache *shared)
{
    free_table(a, t, shared->image);
    free_table(a, t, shared->shuffle);
    shared->image = shared->shuffle = 0;
}

/* The order in which a new slab is linked (Fisher-Yates). */
static void shuffle(uint16_t *order, uint32_t objects, uint64_t state)
{
    for (uint32_t i = 0; i < objects; i++) {
        uint32_t j;

        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        j = (uint32_t)(state % (i + 1));
        order[i] = order[j];
        order[j] = (uint16_t)i;
    }
}

/* Secret, initial image and shuffled order. What is used here is not read back. */
static us_err make_tables(struct us_arena *a, struct us_thread *t,
                          const struct us_cache_config *config, uint32_t objects,
                          struct us_kmem_cache *shared)
{
    bool shuffled = (config->flags & US_FREELIST_RANDOM) && objects >= 2;
    uint64_t secret, image = 0, table = 0;
    us_err err;

    if (getrandom(&secret, sizeof(secret), 0) != (ssize_t)sizeof(secret)) {
        return us_fail_errno(US_ESYSTEM, "no random bytes for a cache");
    }
    err = table_pages(a, t, config->image != NULL ? config->object_size : 0, &image);
    if (err == US_OK) {
        err = table_pages(a, t, shuffled ? 2ULL * objects : 0, &table);
    }
    if (err != US_OK) {
        free_table(a, t, image);
        return err;
    }
    if (config->image != NULL) {
        memcpy(us_at(a, image), config->image, config->object_size);
    }
    if (shuffled) {
        shuffle(us_at(a, table), objects, secret | 1);
    }
    us_store_relaxed64(&shared->random, secret);
    us_store_relaxed64(&shared->image, image);
    us_store_relaxed64(&shared->shuffle, table);
    return US_OK;
}

/* Locks are left alone: a straggler of an earlier cache may hold one. */
static void reset_slots(struct us_arena *a, struct us_kmem_cache *shared)
{
    struct us_kmem_cache_cpu *c = (void *)(shared + 1);
    struct us_kmem_cache_node *n = (void *)(c + a->cpus);

    for (uint32_t cpu = 0; cpu < a->cpus; cpu++) {
        struct us_pair fresh = {0, us_init_tid(shared->generation, cpu)}, old;

        us_store_release64(&c[cpu].active, 0);
        do {
            old.hi = us_load_acquire64(&c[cpu].freelist.hi);
            old.lo = us_load_acquire64(&c[cpu].freelist.lo);
        } while (!us_cas_pair(&c[cpu].freelist, old, fresh));
        us_store_relaxed32(&c[cpu].partial, 0);
        for (int item = 0; item < US_STAT_ITEMS; item++) {
            us_store_relaxed64(&c[cpu].stat[item], 0);
        }
    }
    for (uint32_t node = 0; node < a->nodes; node++) {
        us_store_relaxed32(&n[node].head, 0);
        us_store_relaxed32(&n[node].tail, 0);
        us_store_relaxed32(&n[node].strays, 0);
        us_store_relaxed32(&n[node].nr_partial, 0);
        us_store_relaxed64(&n[node].nr_slabs, 0);
        us_store_relaxed64(&n[node].total_objects, 0);
    }
}

static void append_cache(struct us_arena *a, struct us_kmem_cache *shared, uint32_t id)
{
    struct us_header *h = a->header;

    uint32_t tail = us_load_relaxed32(&h->cache_tail);

    us_store_relaxed32(&shared->prev, tail);
    us_store_relaxed32(&shared->next, 0);
    us_store_relaxed32(
        us_id_valid(a, tail) ? &us_cache_shared(a, tail)->next : &h->cache_head, id);
    us_store_relaxed32(&h->cache_tail, id);
    us_store_relaxed32(&h->cache_count, h->cache_count + 1);
}

static us_err create_cache(struct us_arena *a, struct us_thread *t, const char *name,
                           const struct us_cache_config *config, uint32_t *ret)
{
    struct us_geometry g;
    struct us_kmem_cache *shared;
    uint32_t entry;
    us_err err =
        us_calculate_sizes(config, config->image != NULL || config->ctor != NULL,
                           a->config.order_cpus, a->at.orders, &g);

    if (err != US_OK || (err = us_name_new(a, &entry)) != US_OK ||
        (err = new_id(a, ret)) != US_OK) {
        return err;
    }
    us_store_relaxed32(&t->cache, *ret);
    shared = us_cache_shared(a, *ret);
    us_store_release32(&shared->generation, shared->generation + 1);
    shared->name = entry;
    shared->refcount = 1;
    shared->flags = config->flags;
    shared->align = g.align;
    shared->object_size = g.object_size;
    shared->size = g.size;
    shared->offset = g.offset;
    shared->inuse = g.inuse;
    shared->order = g.order;
    shared->objects = g.objects;
    shared->min_order = g.min_order;
    shared->min_objects = g.min_objects;
    us_store_relaxed32(&shared->min_partial, g.min_partial);
    us_store_relaxed32(&shared->cpu_partial, g.cpu_partial);
    us_store_relaxed32(&shared->cpu_partial_slabs, g.cpu_partial_slabs);
    us_store_relaxed32(&shared->defrag_ratio, config->defrag_ratio < 0
                                                  ? 1000
                                                  : (uint32_t)config->defrag_ratio);
    shared->useroffset = config->useroffset;
    shared->usersize = config->usersize;
    us_store_relaxed32(&shared->serials, 0);
    us_store_relaxed32(&shared->suspect, 0);
    shared->has_ctor = config->image != NULL ? CTOR_IMAGE
                       : config->ctor        ? CTOR_FUNCTION
                                             : 0;
    shared->birth = a->header->births + 1;
    shared->image = shared->shuffle = 0;
    err = make_tables(a, t, config, g.objects, shared);
    if (err != US_OK) {
        return err;
    }
    reset_slots(a, shared);
    append_cache(a, shared, *ret);
    us_name_enter(a, entry, name, *ret, config);
    us_store_release32(&shared->state, US_CACHE_LIVE);
    return US_OK;
}

/* ---- merge ---- */

static bool may_merge(uint32_t flags, bool has_ctor, int32_t usersize)
{
    return (flags & US_MERGE) && !(flags & US_NO_MERGE) && !has_ctor && usersize == 0;
}

/* Linux: find_mergeable(), mm/slab_common.c, v6.18. Oldest first; 0: none. */
static us_err find_mergeable(const struct us_arena *a,
                             const struct us_cache_config *config, uint32_t *ret)
{
    uint64_t size = round_up(config->object_size, US_WORD);
    uint32_t align =
        us_calculate_alignment(config->flags, config->align, config->object_size);
    uint32_t steps = a->config.caches_max;

    *ret = 0;
    if (!may_merge(config->flags, config->image != NULL || config->ctor != NULL,
                   config->usersize) ||
        config->order >= 0 || config->min_partial >= 0 || config->cpu_partial >= 0 ||
        config->object_size == 0 || (align & (align - 1)) != 0) {
        return US_OK;
    }
    size = round_up(size, align);
    for (uint32_t id = a->header->cache_head; id != 0;) {
        const struct us_kmem_cache *s = us_cache_shared(a, id);

        if (!us_id_valid(a, id) || steps-- == 0) {
            return us_damaged(a, "the list of caches");
        }
        if (may_merge(s->flags, s->has_ctor != 0, s->usersize) && size <= s->size &&
            (config->flags & MERGE_SAME) == (s->flags & MERGE_SAME) &&
            s->size % align == 0 && s->size - size < US_WORD) {
            *ret = id;
            return US_OK;
        }
        id = s->next;
    }
    return US_OK;
}

static us_err add_alias(struct us_arena *a, const char *name,
                        const struct us_cache_config *config, uint32_t id)
{
    struct us_kmem_cache *s = us_cache_shared(a, id);
    uint32_t entry, inuse = (uint32_t)round_up(config->object_size, US_WORD);
    us_err err = us_name_new(a, &entry);

    if (err == US_OK) {
        s->refcount++;
        if (config->object_size > s->object_size) {
            us_store_relaxed64(&s->object_size, config->object_size);
        }
        s->inuse = inuse > s->inuse ? inuse : s->inuse;
        us_name_enter(a, entry, name, id, config);
    }
    return err;
}

static us_err create_locked(struct us_arena *a, struct us_thread *t, const char *name,
                            const struct us_cache_config *config, uint32_t *id)
{
    uint32_t entry;
    us_err err = us_name_find(a, name, &entry);

    if (err != US_OK) {
        return err;
    }
    if (entry != 0) {
        *id = us_name_at(a, entry)->cache;
        return us_name_compare(us_name_at(a, entry), config);
    }
    err = find_mergeable(a, config, id);
    if (err == US_OK && *id != 0) {
        return add_alias(a, name, config, *id);
    }
    return err == US_OK ? create_cache(a, t, name, config, id) : err;
}

us_err us_cache_create_any(us_arena *a, const char *name,
                           const struct us_cache_config *config, us_cache **ret)
{
    struct us_thread *t;
    uint32_t id = 0;
    us_err err = us_lock_caches(a, &t);

    if (err != US_OK) {
        return err;
    }
    err = create_locked(a, t, name, config, &id);
    if (err == US_OK) {
        *ret = us_cache_handle(a, id);
        err = *ret == NULL ? us_last_code() : US_OK;
    }
    if (err == US_OK && config->ctor != NULL && (*ret)->ctor == NULL) {
        (*ret)->ctor_context = config->ctor_context;
        (*ret)->ctor = config->ctor;
    }
    us_unlock_caches(a, t);
    return err;
}

us_err us_cache_create(us_arena *a, const char *name,
                       const struct us_cache_config *config, us_cache **ret)
{
    us_err err = us_name_check(name);

    if (err == US_OK) {
        err = check_config(a, config);
    }
    if (err == US_OK &&
        (strncmp(name, "kmalloc-", 8) == 0 || strncmp(name, "dma-kmalloc-", 12) == 0)) {
        err = us_fail(US_EBADNAME,
                      "cache name '%s': names of this form belong to kmalloc; "
                      "choose another",
                      name);
    }
    return err == US_OK ? us_cache_create_any(a, name, config, ret) : err;
}

us_err us_cache_find(us_arena *a, const char *name, us_cache **ret)
{
    struct us_thread *t;
    uint32_t entry = 0;
    us_err err = us_name_check(name);

    if (err != US_OK || (err = us_lock_caches(a, &t)) != US_OK) {
        return err;
    }
    err = us_name_find(a, name, &entry);
    if (err == US_OK && entry == 0) {
        err = us_fail(US_ENOCACHE, "arena '%s' has no cache '%s': create it first",
                      a->name, name);
    }
    if (err == US_OK) {
        *ret = us_cache_handle(a, us_name_at(a, entry)->cache);
        err = *ret == NULL ? us_last_code() : US_OK;
    }
    us_unlock_caches(a, t);
    return err;
}

/* ---- destroy ---- */

/* Threads that may be making a slab of this cache; see begin_slab(). */
static uint64_t count_makers(const struct us_cache *s)
{
    const struct us_arena *a = s->arena;
    uint32_t high = us_load_acquire32(&a->header->thread_high);
    uint64_t makers = 0;

    us_fence();
    for (uint32_t slot = 0; slot < high && slot < US_THREADS; slot++) {
        const struct us_thread *t = us_thread_at(a, slot);

        makers += us_load_acquire64(&t->intent) >> US_OP_SHIFT == US_OP_ALLOC_SLOW &&
                  us_load_relaxed32(&t->cache) == s->id && !us_thread_dead(a, slot);
    }
    return makers;
}

/* Slabs that exist or are being made; the latter first. */
static uint64_t count_slabs(const struct us_cache *s)
{
    uint64_t slabs = count_makers(s);

    for (uint32_t node = 0; node < s->arena->nodes; node++) {
        slabs += us_load_acquire64(&us_node(s, node)->nr_slabs);
    }
    return slabs;
}

static void unlink_cache(struct us_arena *a, struct us_kmem_cache *shared)
{
    struct us_header *h = a->header;

    uint32_t prev = us_load_relaxed32(&shared->prev);
    uint32_t next = us_load_relaxed32(&shared->next);

    us_store_relaxed32(
        us_id_valid(a, prev) ? &us_cache_shared(a, prev)->next : &h->cache_head, next);
    us_store_relaxed32(
        us_id_valid(a, next) ? &us_cache_shared(a, next)->prev : &h->cache_tail, prev);
    us_store_relaxed32(&h->cache_count, h->cache_count - 1);
}

/* Flushes all CPUs and gives every empty slab back. */
static us_err release_empty(struct us_cache *s, struct us_thread *t, bool patient)
{
    us_err err = us_flush_all(s, t, patient);

    for (uint32_t node = 0; err == US_OK && node < s->arena->nodes; node++) {
        err = us_shrink_node(s, t, node, false, patient);
    }
    return err;
}

/* The last name goes: no slab may hold an object. */
static us_err shut_down(struct us_arena *a, struct us_thread *t, const char *name,
                        struct us_cache *s)
{
    us_err err;

    (void)us_exchange_acq_rel32(&s->shared->state, US_CACHE_DYING);
    err = release_empty(s, t, true);
    us_intent_begin(t, US_OP_CACHE, 0);
    if (err == US_OK && count_slabs(s) != 0) {
        err =
            us_fail(US_EBUSY,
                    "arena '%s': cache '%s' still has objects in %llu slabs; free them "
                    "first (see `uslub info`)",
                    a->name, name, (unsigned long long)count_slabs(s));
    }
    if (err != US_OK) {
        us_store_release32(&s->shared->state, US_CACHE_LIVE);
        return err;
    }
    us_store_release32(&s->shared->state, US_CACHE_FREE); /* now it has happened */
    free_tables(a, t, s->shared);
    unlink_cache(a, s->shared);
    return US_OK;
}

static us_err destroy_locked(struct us_arena *a, struct us_thread *t, const char *name)
{
    uint32_t entry = 0;
    struct us_cache *s;
    us_err err = us_name_find(a, name, &entry);

    if (err != US_OK) {
        return err;
    }
    if (entry == 0) {
        return us_fail(US_ENOCACHE, "arena '%s' has no cache '%s' to destroy", a->name,
                       name);
    }
    s = us_cache_handle(a, us_name_at(a, entry)->cache);
    if (s == NULL) {
        return us_last_code();
    }
    if (s->flags & US_KMALLOC) {
        return us_fail(US_EBADARG,
                       "arena '%s': '%s' serves kmalloc and cannot be destroyed",
                       a->name, name);
    }
    if (s->shared->refcount <= 1 && (err = shut_down(a, t, name, s)) != US_OK) {
        return err;
    }
    s->shared->refcount--;
    us_name_remove(a, entry);
    if (s->shared->refcount > 0 && s->shared->name == entry) {
        s->shared->name = us_name_oldest(a, s->id, 0);
    }
    return US_OK;
}

us_err us_cache_destroy(us_arena *a, const char *name)
{
    struct us_thread *t;
    us_err err = us_name_check(name);

    if (err != US_OK || (err = us_lock_caches(a, &t)) != US_OK) {
        return err;
    }
    err = destroy_locked(a, t, name);
    us_unlock_caches(a, t);
    return err;
}

void us_reclaim(struct us_arena *a, struct us_thread *t)
{
    uint32_t steps = a->config.caches_max;
    uint64_t bytes;

    us_reap_now(a);
    if (us_lock_caches(a, &t) == US_OK) {
        for (uint32_t id = a->header->cache_head; id != 0 && steps-- != 0;) {
            struct us_cache *s = us_cache_handle(a, id);

            if (s == NULL) {
                break;
            }
            (void)release_empty(s, t, false);
            id = s->shared->next;
        }
        us_unlock_caches(a, t);
    }
    if (us_load_relaxed64(&a->header->kept_pages) != 0) {
        (void)us_arena_trim(a, &bytes);
    }
}

us_err us_cpu_dead(us_arena *a, int cpu)
{
    struct us_thread *t;
    uint32_t steps = a->config.caches_max;
    us_err err = cpu >= 0 && cpu < (int)a->cpus
                     ? us_lock_caches(a, &t)
                     : us_fail(US_EBADARG, "CPU %d: the arena has CPUs 0 to %u", cpu,
                               a->cpus - 1);

    if (err != US_OK) {
        return err;
    }
    for (uint32_t id = a->header->cache_head; err == US_OK && id != 0;) {
        struct us_cache *s = steps-- == 0 ? NULL : us_cache_handle(a, id);

        if (s == NULL) {
            err = us_damaged(a, "the list of caches");
            break;
        }
        err = us_flush_cpu(s, t, (uint32_t)cpu);
        id = s->shared->next;
    }
    us_unlock_caches(a, t);
    return err;
}

/* ---- iterate ---- */

us_err us_cache_each(us_arena *a, bool (*fn)(us_cache *, void *), void *arg)
{
    uint32_t *ids, count = 0, most;
    struct us_thread *t;
    us_err err = us_lock_caches(a, &t);

    if (err != US_OK) {
        return err;
    }
    most = a->config.caches_max;
    ids = malloc(most * sizeof(*ids));
    for (uint32_t id = a->header->cache_head;
         ids != NULL && us_id_valid(a, id) && count < most;) {
        ids[count++] = id;
        id = us_cache_shared(a, id)->next;
    }
    us_unlock_caches(a, t);
    if (ids == NULL) {
        return us_fail(US_ENOMEM, "no memory for a list of caches");
    }
    for (uint32_t i = 0; i < count; i++) {
        struct us_cache *s = us_cache_handle(a, ids[i]);

        if (s != NULL && us_cache_alive(s) == US_OK && !fn(s, arg)) {
            break;
        }
    }
    free(ids);
    return US_OK;
}

/* ---- tunables ---- */

us_err us_cache_set_min_partial(us_cache *s, uint32_t min_partial)
{
    us_err err = us_cache_alive(s);

    if (err == US_OK && min_partial > INT32_MAX) {
        err = us_fail(US_EBADARG, "min_partial %u: 0 to %d are possible", min_partial,
                      INT32_MAX);
    }
    if (err == US_OK) {
        us_store_relaxed32(&s->shared->min_partial, min_partial);
    }
    return err;
}

us_err us_cache_set_cpu_partial(us_cache *s, uint32_t cpu_partial)
{
    us_err err = us_cache_set_cpu_partial_slabs(
        s, us_cpu_partial_slabs(cpu_partial, s->objects));

    if (err != US_OK) {
        return err;
    }
    us_store_relaxed32(&s->shared->cpu_partial, cpu_partial);
    return us_cache_flush(s, -1);
}

us_err us_cache_set_cpu_partial_slabs(us_cache *s, uint32_t slabs)
{
    us_err err = us_cache_alive(s);

    if (err == US_OK) {
        us_store_relaxed32(&s->shared->cpu_partial_slabs, slabs);
    }
    return err;
}
