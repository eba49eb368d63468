/* SPDX-License-Identifier: MIT */
/* slab.c - the birth and death of a slab, and walks along its links; see slab.h. */
#include "slab/slab.h"

#include <string.h>

us_err us_chain_measure(const struct us_cache *s, uint32_t page, uint32_t objects,
                        uint64_t first, uint32_t *count, uint64_t *last)
{
    uint32_t index;

    *count = 0;
    *last = 0;
    for (uint64_t object = first; object != 0; object = us_link_get(s, object)) {
        if (*count >= objects || !us_object_index(s, page, objects, object, &index)) {
            us_store_release32(&s->shared->suspect, 1);
            return us_fail(
                US_ECORRUPT,
                "arena '%s': the freelist of the slab at page %u (cache id %u) "
                "leads to 0x%llx after %u of %u objects; something wrote into a "
                "free object: recreate the arena",
                s->arena->name, page, s->id, (unsigned long long)object, *count,
                objects);
        }
        *last = object;
        (*count)++;
    }
    return US_OK;
}

struct us_page *us_slab_at(const struct us_cache *s, uint32_t page)
{
    struct us_page *p = us_page_at(s->arena, page);
    uint32_t order;

    if (p == NULL || us_load_relaxed32(&p->cache) != s->id ||
        p->cache_gen != (uint16_t)s->generation ||
        us_block_state(s->arena, page, &order) != US_BLOCK_SLAB ||
        !us_block_fits(s->arena, page, order) ||
        us_slab_read(us_slab_load(p)).objects != us_objects_of_order(s, order)) {
        us_store_release32(&s->shared->suspect, 1);
        us_fail(
            US_ECORRUPT,
            "arena '%s': page %u is on a list of cache id %u but is no slab of it; the "
            "arena is damaged: recreate it",
            s->arena->name, page, s->id);
        return NULL;
    }
    return p;
}

/* Every object gets its initial content. has_ctor 2: by a function of the creator's. */
static us_err construct(struct us_cache *s, uint32_t page, uint32_t objects)
{
    if (s->has_ctor == 2 && s->ctor == NULL) {
        return us_fail(
            US_ECTOR,
            "arena '%s': cache id %u has a constructor function, which only the "
            "process that made it can run; allocate there, or give bytes instead",
            s->arena->name, s->id);
    }
    for (uint32_t i = 0; i < objects; i++) {
        char *object = us_at(s->arena, us_object_offset(s, page, i));

        if (s->image != NULL) {
            memcpy(object, s->image, s->object_size);
        } else if (s->ctor != NULL && !s->ctor(object, s->ctor_context)) {
            return us_fail(US_ECTOR,
                           "arena '%s': the constructor of cache id %u failed on "
                           "object %u of a new slab",
                           s->arena->name, s->id, i);
        }
    }
    return US_OK;
}

/* A number that differs from call to call; where a shuffled slab begins. */
static uint32_t somewhere(const struct us_page *p, uint32_t below)
{
    uint64_t x =
        (us_load_relaxed64(&p->word) ^ (uint64_t)(uintptr_t)p) * 0x9e3779b97f4a7c15ULL;

    return (uint32_t)(x >> 33) % below;
}

/* Links all objects, in address order or shuffled; the first, 0: the table is damaged.
 */
static uint64_t link_all(const struct us_cache *s, uint32_t page, uint32_t objects)
{
    uint32_t places = s->shuffle == NULL ? objects : s->objects;
    uint32_t start = s->shuffle == NULL ? 0 : somewhere(s->arena->pages + page, places);
    uint64_t first = 0, last = 0;

    for (uint32_t i = 0; i < places; i++) {
        uint32_t at = (start + i) % places;
        uint32_t index = s->shuffle == NULL ? at : s->shuffle[at];
        uint64_t object = us_object_offset(s, page, index);

        if (index >= objects) {
            continue; /* a slab of the fallback order is shorter than the table */
        }
        if (last == 0) {
            first = object;
        } else {
            us_link_set(s, last, object);
        }
        last = object;
    }
    if (last != 0) {
        us_link_set(s, last, 0);
    }
    return first;
}

static us_err get_pages(struct us_cache *s, struct us_thread *t, uint32_t gfp,
                        uint32_t cpu, int node, struct us_run *run, uint32_t *objects)
{
    us_err err;

    *objects = s->objects;
    err = us_pages_alloc(s->arena, t, gfp, (int)cpu, node, s->order,
                         s->objects * s->size, run);
    if (err == US_OK || s->min_order >= s->order) {
        return err;
    }
    *objects = s->min_objects;
    err = us_pages_alloc(s->arena, t, gfp, (int)cpu, node, s->min_order,
                         s->min_objects * s->size, run);
    if (err == US_OK) {
        us_stat_add(us_cpu(s, cpu), US_STAT_ORDER_FALLBACK, 1);
    }
    return err;
}

/* Nobody owns an object of a new slab. */
static us_err clear_tags(const struct us_cache *s, uint32_t page, uint32_t objects)
{
    for (uint32_t i = 0; i < objects; i++) {
        uint16_t *tag = us_tag(s, us_object_offset(s, page, i));
        us_err err = us_commit(s->arena, us_offset(s->arena, tag), sizeof(*tag));

        if (err != US_OK) {
            return err;
        }
        us_store_relaxed16(tag, 0);
    }
    return US_OK;
}

us_err us_slab_new(struct us_cache *s, struct us_thread *t, uint32_t gfp, uint32_t cpu,
                   int node, struct us_fresh *ret)
{
    us_err err = get_pages(s, t, gfp, cpu, node, &ret->run, &ret->objects);

    if (err != US_OK) {
        return err;
    }
    err = clear_tags(s, ret->run.page, ret->objects);
    if (err == US_OK && (ret->first = link_all(s, ret->run.page, ret->objects)) == 0) {
        err = us_fail(US_ECORRUPT,
                      "arena '%s': the shuffle table of cache id %u is damaged; "
                      "recreate the arena",
                      s->arena->name, s->id);
    }
    if (err == US_OK) { /* last: a function of the user's may end our intent */
        err = construct(s, ret->run.page, ret->objects);
    }
    if (err != US_OK) {
        us_pages_free(s->arena, t, ret->run.page);
    }
    return err;
}

void us_slab_publish(struct us_cache *s, const struct us_fresh *fresh,
                     struct us_slab_word word)
{
    struct us_page *p = s->arena->pages + fresh->run.page;
    struct us_kmem_cache_node *n = us_node(s, fresh->run.node);
    struct us_pair raw;

    us_store_relaxed32(&p->cache, s->id);
    us_store_relaxed16(&p->cache_gen, (uint16_t)s->generation);
    us_store_relaxed32(&p->serial, us_fetch_add_relaxed32(&s->shared->serials, 1));
    us_store_relaxed32(&p->next, 0);
    us_store_relaxed32(&p->prev, 0);
    us_store_relaxed32(&p->chain_next, 0);
    us_store_relaxed32(&p->chain_count, 0);
    us_store_relaxed16(&p->flags, fresh->run.reserve ? US_PAGE_PFMEMALLOC : 0);
    us_store_relaxed64(&p->requested, 0);
    word.objects = fresh->objects;
    raw = us_slab_pack(us_slab_load(p), word);
    us_store_relaxed64(&p->slab.lo, raw.lo);
    us_store_release64(&p->slab.hi, raw.hi);
    us_fetch_add_acq_rel64(&n->nr_slabs, 1);
    us_fetch_add_relaxed64(&n->total_objects, word.objects);
    us_pages_publish(s->arena, fresh->run.page, US_BLOCK_SLAB);
}

void us_slab_unpublish(struct us_cache *s, struct us_thread *t, uint32_t page)
{
    struct us_kmem_cache_node *n = us_slab_node(s, page);
    uint64_t objects = us_slab_read(us_slab_load(s->arena->pages + page)).objects;

    us_fetch_add_relaxed64(&n->total_objects, -objects);
    us_fetch_add_acq_rel64(&n->nr_slabs, (uint64_t)-1);
    us_pages_unpublish(s->arena, t, page);
}

void us_slab_discard(struct us_cache *s, struct us_thread *t, uint32_t page)
{
    us_slab_unpublish(s, t, page);
    us_pages_free(s->arena, t, page);
}
