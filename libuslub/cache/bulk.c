/* SPDX-License-Identifier: MIT */
/*
 * bulk.c - many objects at once: one swap takes a run of the CPU freelist, one swap
 * gives back all objects of a slab.
 *
 * Linux: kmem_cache_alloc_bulk(), build_detached_freelist(), mm/slub.c, v6.18.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/hold.h"

/*
 * Takes up to `max` objects off the CPU freelist in one swap. The links are guesses
 * until the swap shows that nobody touched the list meanwhile.
 */
static size_t pop_many(struct us_request *r, size_t max, void **ret)
{
    struct us_cache *s = r->s;

    for (;;) {
        struct us_pair old, new;
        uint64_t active;
        size_t count = 0;

        old.hi = us_load_acquire64(&r->c->freelist.hi);
        old.lo = us_load_acquire64(&r->c->freelist.lo);
        active = us_load_acquire64(&r->c->active);
        if (!us_tid_ours(s, old.hi) ||
            (r->node >= 0 && us_active_read(active).node != (uint32_t)r->node)) {
            return 0;
        }
        new.lo = old.lo;
        while (count < max && new.lo != 0 && us_active_holds(s, active, new.lo)) {
            us_intent_begin(r->t, US_OP_ALLOC_BULK, new.lo + s->offset);
            if (us_load_acquire64(&r->c->freelist.hi) != old.hi) {
                break; /* somebody changed the list: the swap below fails */
            }
            ret[count++] = us_at(s->arena, new.lo);
            new.lo = us_link_guess(s, new.lo);
        }
        new.hi = us_next_tid(old.hi);
        if (count == 0) {
            us_intent_end(r->t);
            return 0;
        }
        if (!us_cas_pair(&r->c->freelist, old, new)) {
            us_stat_add(r->c, US_STAT_CMPXCHG_DOUBLE_CPU_FAIL, 1);
            continue;
        }
        for (size_t i = 0; i < count; i++) {
            if (us_claim(s, us_offset(s->arena, ret[i])) != US_OK) {
                count = i; /* damaged; what is behind stays untagged and off the list */
            }
        }
        us_intent_end(r->t);
        us_stat_add(r->c, US_STAT_ALLOC_FASTPATH, count);
        return count;
    }
}

/* What was had goes back; the reason stays the last thing said. */
static us_err give_up(us_cache *s, us_err err, size_t done, void **objects, int cpu)
{
    char reason[512];

    (void)snprintf(reason, sizeof(reason), "%s", us_last_error());
    (void)us_free_bulk(s, done, objects, cpu);
    return us_fail(err, "%s", reason);
}

us_err us_alloc_bulk(us_cache *s, uint32_t gfp, int cpu, int node, size_t n, void **ret)
{
    struct us_request r;
    us_err err = us_request_init(s, gfp, cpu, node, &r);
    size_t done = 0;

    if (err != US_OK) {
        return err;
    }
    while (err == US_OK && done < n) {
        size_t got = pop_many(&r, n - done, ret + done);

        if (got == 0) {
            uint64_t object = us_alloc_one(&r);

            if (object == 0) {
                err = us_last_code();
                break;
            }
            ret[done] = us_at(s->arena, object);
            got = 1;
        }
        done += got;
    }
    if (err != US_OK) {
        return give_up(s, err, done, ret, (int)r.cpu);
    }
    for (size_t i = 0; (gfp & US_GFP_ZERO) && i < n; i++) {
        memset(ret[i], 0, us_object_bytes(s));
    }
    return US_OK;
}

/* ---- free ---- */

/* Objects head..tail of one slab, linked and untagged. */
static us_err free_chain(struct us_cache *s, struct us_thread *t, uint32_t cpu,
                         uint32_t page, uint64_t head, uint64_t tail, uint32_t count)
{
    struct us_kmem_cache_cpu *c = us_cpu(s, cpu);

    for (;;) {
        struct us_pair old, new;

        old.hi = us_load_acquire64(&c->freelist.hi);
        old.lo = us_load_acquire64(&c->freelist.lo);
        if (us_active_read(us_load_acquire64(&c->active)).page != page) {
            return us_slab_free(s, t, cpu, page, head, tail, count);
        }
        us_link_set(s, tail, old.lo);
        new.lo = head;
        new.hi = us_next_tid(old.hi);
        if (us_cas_pair(&c->freelist, old, new)) {
            us_stat_add(c, US_STAT_FREE_FASTPATH, count);
            return US_OK;
        }
        us_stat_add(c, US_STAT_CMPXCHG_DOUBLE_CPU_FAIL, 1);
    }
}

#define LOOK_AHEAD 3

/*
 * Chains the last object of the array with those of the same slab before it, passing at
 * most three others; what is left is objects[0..*n). Untags what it takes.
 */
static us_err detach_one_slab(struct us_cache *s, struct us_thread *t, uint32_t cpu,
                              void **objects, size_t *n)
{
    uint64_t head = us_offset(s->arena, objects[*n - 1]), tail = head;
    uint32_t page, index, count = 1, others = 0, objects_here;
    size_t at = *n - 1, rest = *n - 1;

    page = us_block_head(s->arena, (uint32_t)(head >> US_PAGE_SHIFT));
    if (us_slab_at(s, page) == NULL) {
        return US_ECORRUPT;
    }
    objects_here = us_slab_read(us_slab_load(s->arena->pages + page)).objects;
    us_intent_begin(t, US_OP_FREE_BULK, head);
    us_store_release16(us_tag(s, head), 0);
    while (at-- > 0) {
        uint64_t object = us_offset(s->arena, objects[at]);

        if (!us_object_index(s, page, objects_here, object, &index)) {
            if (++others == LOOK_AHEAD) {
                break;
            }
            continue;
        }
        us_store_release16(us_tag(s, object), 0);
        us_link_set(s, object, head);
        head = object;
        count++;
        objects[at] = objects[--rest];
        objects[rest] = us_at(s->arena, object);
    }
    *n = rest;
    us_err err = free_chain(s, t, cpu, page, head, tail, count);
    us_intent_end(t);
    return err;
}

us_err us_free_detached(struct us_cache *s, struct us_thread *t, uint32_t cpu, size_t n,
                        void **objects)
{
    us_err err = US_OK;

    us_store_relaxed32(&t->cache, s->id);
    us_store_relaxed32(&t->cpu, cpu);
    while (n > 0 && err == US_OK) {
        err = detach_one_slab(s, t, cpu, objects, &n);
    }
    while (n-- > 0) { /* after an error: the rest is still the caller's */
        us_store_release16(us_tag(s, us_offset(s->arena, objects[n])), us_me(s->arena));
    }
    return err;
}

/* Marks each object as being freed, so that one given twice is found before anything
 * moves. Shared ones stay as they are, and are counted. */
static us_err mark_all(struct us_cache *s, size_t n, void *const *objects,
                       size_t *shared)
{
    uint16_t me = us_me(s->arena);
    uint32_t page;

    for (size_t i = 0; i < n; i++) {
        uint64_t object = us_offset(s->arena, objects[i]);
        bool is_shared = false;
        us_err err = us_find_object(s, object, &page, &is_shared);

        if (err == US_OK && is_shared) {
            ++*shared;
        } else if (err == US_OK) {
            us_store_release16(us_tag(s, object), me | US_TAG_FREEING);
        }
        if (err == US_OK) {
            continue;
        }
        while (i-- > 0) {
            uint16_t *tag = us_tag(s, us_offset(s->arena, objects[i]));

            if (us_load_relaxed16(tag) != US_TAG_SHARED) {
                us_store_release16(tag, me);
            }
        }
        return err;
    }
    return US_OK;
}

/* Drops the shared ones; those that are ours alone now stay among objects[0..*n). */
static us_err drop_shared(struct us_cache *s, struct us_thread *t, void **objects,
                          size_t *n)
{
    us_err err = US_OK;
    size_t kept = 0;

    for (size_t i = 0; i < *n; i++) {
        uint64_t object = us_offset(s->arena, objects[i]);
        uint16_t *tag = us_tag(s, object), seen = us_load_acquire16(tag);
        us_err failed = US_OK;
        bool last = true;

        if (seen == US_TAG_SHARED) {
            failed = us_hold_drop(s->arena, t, object, &last);
            if (last) { /* told from those that were ours before, and from twice */
                us_store_release16(tag,
                                   us_me(s->arena) | US_TAG_FREEING | US_TAG_MOVING);
            }
            us_intent_end(t);
        } else if (seen & US_TAG_MOVING) {
            last = false;
            failed = us_fail(US_EDOUBLEFREE,
                             "arena '%s', cache id %u: the object at offset 0x%llx was "
                             "dropped for the last time earlier in this call",
                             s->arena->name, s->id, (unsigned long long)object);
        }
        err = failed != US_OK ? failed : err;
        if (last) {
            objects[kept++] = objects[i];
        }
    }
    *n = kept;
    return err;
}

us_err us_free_bulk(us_cache *s, size_t n, void *const *objects, int cpu)
{
    struct us_request r;
    us_err err = us_request_init(s, 0, cpu, -1, &r), dropped = US_OK;
    size_t shared = 0;
    void **copy;

    if (err != US_OK || n == 0) {
        return err;
    }
    copy = malloc(n * sizeof(*copy));
    if (copy == NULL) {
        return us_fail(US_ENOMEM, "no memory for a list of %zu objects to free", n);
    }
    memcpy(copy, objects, n * sizeof(*copy));
    err = mark_all(s, n, objects, &shared);
    if (err == US_OK && shared != 0) {
        dropped = drop_shared(s, r.t, copy, &n);
    }
    if (err == US_OK) {
        err = us_free_detached(s, r.t, r.cpu, n, copy);
    }
    free(copy);
    return err == US_OK ? dropped : err;
}
