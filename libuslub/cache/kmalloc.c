/* SPDX-License-Identifier: MIT */
/*
 * kmalloc.c - requests by size: 13 size caches in four families, and the page allocator
 * for what is larger. Also what any address is, and hand-over.
 *
 * Linux: kmalloc_slab(), __ksize(), krealloc(), mm/slab_common.c, v6.18.
 */
#include <stdio.h>
#include <string.h>

#include "cache/hold.h"
#include "slab/geometry.h"

US_STATIC(US_KMALLOC_CLASSES == US_KMALLOC_INDEXES);

static const struct family {
    const char *prefix;
    uint32_t flags;
} families[US_KMALLOC_FAMILIES] = {
    {"kmalloc", 0},
    {"dma-kmalloc", US_CACHE_DMA},
    {"kmalloc-rcl", US_RECLAIM_ACCOUNT},
    {"kmalloc-cg", US_ACCOUNT},
};

static uint32_t family_of(uint32_t gfp)
{
    return gfp & US_GFP_DMA           ? 1
           : gfp & US_GFP_RECLAIMABLE ? 2
           : gfp & US_GFP_ACCOUNT     ? 3
                                      : 0;
}

struct us_cache *us_kmalloc_cache(struct us_arena *a, uint32_t family, uint32_t index)
{
    struct us_cache **known = &a->kmalloc[family][index], *s;
    struct us_cache_config config = US_CACHE_CONFIG_INIT;
    char name[32];

    s = us_load_pointer(known);
    if (US_LIKELY(s != NULL)) {
        return s;
    }
    config.object_size = us_kmalloc_size(index);
    config.align = (uint32_t)(config.object_size & -config.object_size);
    config.flags = families[family].flags | US_KMALLOC | US_NO_MERGE;
    if (config.object_size < 1024) {
        (void)snprintf(name, sizeof(name), "%s-%u", families[family].prefix,
                       (unsigned)config.object_size);
    } else {
        (void)snprintf(name, sizeof(name), "%s-%uk", families[family].prefix,
                       (unsigned)config.object_size / 1024);
    }
    if (us_cache_create_any(a, name, &config, &s) != US_OK) {
        return NULL;
    }
    if (s->object_size < config.object_size) { /* the name said otherwise */
        (void)us_fail(US_ECORRUPT,
                      "arena '%s': cache '%s' has objects of %llu bytes; the arena is "
                      "damaged: recreate it",
                      a->name, name, (unsigned long long)s->object_size);
        return NULL;
    }
    us_store_pointer(known, s);
    return s;
}

/* ---- large ones ---- */

uint16_t *us_large_tag(const struct us_arena *a, uint32_t page)
{
    uint32_t plane = US_TAG_PLANES - 1;

    return us_at(a, a->at.tags[plane] +
                        (uint64_t)(page - a->first_page) * US_TAG_STRIDE(plane));
}

static void *large_alloc(struct us_arena *a, uint64_t n, uint32_t gfp, int cpu,
                         int node)
{
    struct us_thread *t = us_thread_self(a);
    struct us_run run;

    if (t == NULL) {
        return NULL;
    }
    us_intent_begin(t, US_OP_PAGES, 0);
    if (us_pages_alloc(a, t, gfp, cpu, node, us_get_order(n), n, &run) != US_OK) {
        us_reclaim(a, t);
        us_intent_begin(t, US_OP_PAGES, 0);
        if (us_pages_alloc(a, t, gfp, cpu, node, us_get_order(n), n, &run) != US_OK) {
            us_intent_end(t);
            return NULL;
        }
    }
    if (us_commit(a, us_offset(a, us_large_tag(a, run.page)), sizeof(uint16_t)) !=
        US_OK) {
        us_pages_free(a, t, run.page);
        us_intent_end(t);
        return NULL;
    }
    us_store_relaxed32(&a->pages[run.page].cache, 0);
    us_store_relaxed64(&a->pages[run.page].requested, n);
    us_store_release16(us_large_tag(a, run.page), us_me(a));
    us_pages_publish(a, run.page, US_BLOCK_LARGE);
    us_intent_end(t);
    if (gfp & US_GFP_ZERO) {
        memset(us_at(a, us_page_offset(run.page)), 0, n);
    }
    return us_at(a, us_page_offset(run.page));
}

static us_err check_large(const struct us_arena *a, uint32_t page, uint64_t object)
{
    uint16_t tag = us_load_acquire16(us_large_tag(a, page));

    if (tag == US_TAG_POISON) {
        return us_fail(
            US_EPOISONED,
            "arena '%s': the object at offset 0x%llx contradicts itself and is "
            "out of use; leave it alone",
            a->name, (unsigned long long)object);
    }
    if (object != us_page_offset(page)) {
        return us_fail(
            US_EFOREIGN,
            "arena '%s': offset 0x%llx points into the object at 0x%llx; expected "
            "the address that an allocation returned",
            a->name, (unsigned long long)object,
            (unsigned long long)us_page_offset(page));
    }
    if (tag != us_me(a)) {
        return us_fail(
            tag == 0 ? US_EDOUBLEFREE : US_ENOTOWNER,
            "arena '%s': the object at offset 0x%llx belongs to participant %d, "
            "this process is %d",
            a->name, (unsigned long long)object, (tag & US_TAG_OWNER) - 1,
            us_me(a) - 1);
    }
    return US_OK;
}

static us_err large_free(struct us_arena *a, uint32_t page, uint64_t object)
{
    struct us_thread *t = us_thread_self(a);
    us_err err = t == NULL ? us_last_code() : US_ENOTOWNER;

    /* Twice, because a fork may make it shared between the two looks at the tag. */
    for (int look = 0; look < 2 && err == US_ENOTOWNER; look++) {
        if (us_load_acquire16(us_large_tag(a, page)) == US_TAG_SHARED) {
            bool last;

            err = us_hold_drop(a, t, object, &last);
            if (!last) {
                return err;
            }
        }
        err = check_large(a, page, object);
    }
    if (err != US_OK) {
        return err;
    }
    us_intent_begin(t, US_OP_PAGES, object);
    us_pages_unpublish(a, t, page); /* from here on it is a block of this thread's */
    us_store_release16(us_large_tag(a, page), 0);
    us_pages_free(a, t, page);
    us_intent_end(t);
    return US_OK;
}

/* Committed bytes of a large object; what the arena says is bounded by the block, and
 * that by the pages there are. */
uint64_t us_large_usable(const struct us_arena *a, uint32_t page)
{
    uint64_t bytes = us_load_relaxed64(&a->pages[page].requested), most, left;
    uint32_t order;

    (void)us_block_state(a, page, &order);
    most = order < a->at.orders ? (uint64_t)US_PAGE_SIZE << order : 0;
    left = us_page_offset(a->end_page) - us_page_offset(page);
    most = most < left ? most : left;
    return bytes < most ? (bytes + US_PAGE_SIZE - 1) & ~(uint64_t)(US_PAGE_SIZE - 1)
                        : most;
}

/* ---- any address ---- */

/* First page and kind of the block around `object`; US_EFOREIGN if there is none. */
static us_err block_of(const struct us_arena *a, uint64_t object, uint32_t *page,
                       enum us_block_state *state)
{
    uint32_t order;

    *page = object - a->data_start < a->data_bytes
                ? us_block_head(a, (uint32_t)(object >> US_PAGE_SHIFT))
                : 0;
    *state = *page == 0 ? US_BLOCK_TAIL : us_block_state(a, *page, &order);
    if (*state == US_BLOCK_SLAB || *state == US_BLOCK_LARGE) {
        return us_arena_sound(a);
    }
    return us_fail(
        US_EFOREIGN,
        "arena '%s': offset 0x%llx is no object: nothing is allocated there; "
        "expected the address that an allocation returned",
        a->name, (unsigned long long)object);
}

static void set_owner(const struct us_arena *a, struct us_object_info *info,
                      uint16_t tag, uint32_t plane)
{
    const struct us_pair *pair;

    info->owner = tag & US_TAG_OWNER;
    info->moving = tag & US_TAG_MOVING;
    if (tag != US_TAG_SHARED) {
        return;
    }
    pair = us_holders_at(a, plane, info->offset);
    if (us_committed(a, (uint64_t)((const char *)pair - a->base))) {
        info->shared = true;
        info->holders = us_load_acquire64(&pair->lo);
        info->transits = (uint32_t)(us_load_acquire64(&pair->hi) >> US_TRANSITS_SHIFT);
    }
}

us_err us_object_stat(us_arena *a, const void *pointer, struct us_object_info *ret)
{
    uint64_t object = us_offset(a, pointer);
    enum us_block_state state;
    const struct us_page *p;
    uint32_t page, order;
    us_err err = block_of(a, object, &page, &state);

    if (err != US_OK) {
        return err;
    }
    memset(ret, 0, sizeof(*ret));
    p = a->pages + page;
    ret->offset = object;
    ret->page = page - a->first_page;
    ret->node = us_page_node(a, page);
    if (state == US_BLOCK_LARGE) {
        ret->large = true;
        set_owner(a, ret, us_load_acquire16(us_large_tag(a, page)), US_TAG_PLANES - 1);
        ret->usable = us_large_usable(a, page);
        return object == us_page_offset(page) ? US_OK : check_large(a, page, object);
    }
    ret->cache = us_cache_handle(a, us_load_relaxed32(&p->cache));
    if (ret->cache == NULL) {
        return us_last_code();
    }
    ret->slab = us_load_relaxed32(&p->serial);
    (void)us_block_state(a, page, &order);
    if (!us_object_index(ret->cache, page, us_objects_here(ret->cache, page, order),
                         object, &ret->index)) {
        return us_fail(
            US_EFOREIGN,
            "arena '%s': offset 0x%llx points into an object of cache id %u, or "
            "between two; expected the address that an allocation returned",
            a->name, (unsigned long long)object, ret->cache->id);
    }
    set_owner(a, ret, us_load_acquire16(us_tag(ret->cache, object)),
              ret->cache->tag_shift - 3);
    ret->usable =
        ret->cache->shared->has_ctor ? ret->cache->object_size : ret->cache->size;
    return US_OK;
}

/* Changes the tag of a live object from `from` to `to`; else `refused` says why. */
static us_err change_owner(struct us_arena *a, uint64_t offset, uint16_t from,
                           uint16_t to, const char *refused)
{
    struct us_thread *t = us_thread_self(a);
    struct us_object_info info;
    uint16_t *tag, seen = from;
    us_err err =
        t == NULL ? us_last_code() : us_object_stat(a, us_at(a, offset), &info);

    if (err != US_OK) {
        return err;
    }
    tag = info.large ? us_large_tag(a, info.page + a->first_page)
                     : us_tag(info.cache, offset);
    us_intent_begin(t, US_OP_ADOPT, offset);
    if (!us_cas_acq_rel16(tag, &seen, to)) {
        err = us_fail(US_ENOTOWNER,
                      "arena '%s': the object at offset 0x%llx %s; it belongs to "
                      "participant %d%s",
                      a->name, (unsigned long long)offset, refused,
                      (seen & US_TAG_OWNER) - 1,
                      seen & US_TAG_MOVING ? " and is on the move" : "");
    }
    us_intent_end(t);
    return err;
}

/* What is shared, but held by us alone, may be moved or resized like our own. */
static us_err make_ours(us_arena *a, void *object)
{
    struct us_thread *t = us_thread_self(a);
    struct us_spot spot;
    us_err err =
        t == NULL ? us_last_code() : us_spot_find(a, us_offset(a, object), &spot);

    return err == US_OK ? us_hold_unshare(a, t, &spot) : err;
}

us_err us_move(us_arena *a, void *object)
{
    uint16_t me = us_thread_self(a) == NULL ? 0 : us_me(a);
    us_err err = me == 0 ? us_last_code() : make_ours(a, object);

    return err != US_OK ? err
                        : change_owner(a, us_offset(a, object), me, me | US_TAG_MOVING,
                                       "is not this process's to hand over");
}

us_err us_adopt(us_arena *a, uint64_t offset, uint16_t from)
{
    if (from == 0 || from > US_PROCESSES) {
        return us_fail(US_ENOTOWNER, "arena '%s': %u is no participant", a->name, from);
    }
    if (us_thread_self(a) == NULL) {
        return us_last_code();
    }
    return change_owner(a, offset, from | US_TAG_MOVING, us_me(a),
                        "was not handed over by who the handle says, was adopted "
                        "already, or was freed");
}

/* ---- the family of calls ---- */

void *us_kmalloc(us_arena *a, uint64_t n, uint32_t gfp, int cpu, int node)
{
    struct us_cache *s;

    if (n == 0 || n > a->data_bytes) {
        us_fail(n == 0 ? US_EBADSIZE : US_ENOMEM,
                "arena '%s': %llu bytes asked for; 1 to %llu are possible", a->name,
                (unsigned long long)n, (unsigned long long)a->data_bytes);
        return NULL;
    }
    if (cpu < -1 || cpu >= (int)a->cpus || node < -1 || node >= (int)a->nodes) {
        us_fail(US_EBADARG,
                "CPU %d, node %d: arena '%s' has CPUs 0 to %u and nodes 0 to %u", cpu,
                node, a->name, a->cpus - 1, a->nodes - 1);
        return NULL;
    }
    if (n > US_KMALLOC_MAX) {
        return large_alloc(a, n, gfp, cpu < 0 ? (int)us_cpu_slot(a) : cpu, node);
    }
    s = us_kmalloc_cache(a, family_of(gfp), us_kmalloc_index(n));
    return s == NULL ? NULL : us_alloc_on(s, gfp, cpu, node);
}

us_err us_kfree(us_arena *a, void *pointer, int cpu)
{
    uint64_t object = us_offset(a, pointer);
    enum us_block_state state;
    struct us_cache *s;
    uint32_t page;
    us_err err = block_of(a, object, &page, &state);

    if (err != US_OK) {
        return err;
    }
    if (state == US_BLOCK_LARGE) {
        return large_free(a, page, object);
    }
    s = us_cache_handle(a, us_load_relaxed32(&a->pages[page].cache));
    return s == NULL ? us_last_code() : us_free_on(s, pointer, cpu);
}

uint64_t us_ksize(us_arena *a, const void *pointer)
{
    struct us_object_info info;

    return us_object_stat(a, pointer, &info) == US_OK ? info.usable : 0;
}

/* A large object that still fits its block grows or shrinks in place. */
static bool resize_large(struct us_arena *a, const struct us_object_info *info,
                         uint64_t n)
{
    uint32_t page = info->page + a->first_page, order;

    (void)us_block_state(a, page, &order);
    if (us_get_order(n) != order || us_commit(a, info->offset, n) != US_OK) {
        return false;
    }
    us_store_relaxed64(&a->pages[page].requested, n);
    return true;
}

void *us_krealloc(us_arena *a, void *object, uint64_t n, uint32_t gfp, int cpu)
{
    struct us_object_info info;
    uint64_t keep;
    void *moved;

    if (object == NULL) {
        return us_kmalloc(a, n, gfp, cpu, -1);
    }
    if (us_thread_self(a) == NULL) {
        return NULL;
    }
    if (make_ours(a, object) != US_OK || us_object_stat(a, object, &info) != US_OK) {
        return NULL;
    }
    if (info.owner != us_me(a) || info.moving) {
        us_fail(
            info.owner == 0 ? US_EDOUBLEFREE : US_ENOTOWNER,
            "arena '%s': the object at offset 0x%llx belongs to participant %d, this "
            "process is %d; it cannot be resized",
            a->name, (unsigned long long)info.offset, info.owner - 1, us_me(a) - 1);
        return NULL;
    }
    if (n != 0 && (info.large ? n > US_KMALLOC_MAX && resize_large(a, &info, n)
                              : n <= info.usable)) {
        return object;
    }
    keep = info.usable < n ? info.usable : n;
    moved = us_kmalloc(a, n, gfp, cpu, -1);
    if (moved != NULL) {
        memcpy(moved, object, keep);
        (void)us_kfree(a, object, cpu);
    }
    return moved;
}
