/* SPDX-License-Identifier: MIT */
/*
 * alloc.c - one object: the fast path, then the five sources in SLUB's order.
 *
 *   1. the CPU freelist          one double-word swap, no lock
 *   2. the CPU slab's own list   what others freed into it
 *   3. the CPU partial chain
 *   4. the node partial lists    this node, then others
 *   5. the page allocator        a new slab
 *
 * Linux: slab_alloc_node(), ___slab_alloc(), mm/slub.c, v6.18.
 */
#include <string.h>

#include "cache/cache.h"

static US_COLD us_err claim_failed(const struct us_cache *s, uint64_t object)
{
    return us_fail(
        US_ECORRUPT,
        "arena '%s': the object at offset 0x%llx (cache id %u) was on a freelist "
        "but belongs to participant %d; it stays his: recreate the arena",
        s->arena->name, (unsigned long long)object, s->id,
        us_load_relaxed16(us_tag(s, object)) - 1);
}

us_err us_claim(struct us_cache *s, uint64_t object)
{
    if (!us_tag_is(us_tag(s, object), 0)) {
        return claim_failed(s, object);
    }
    us_tag_set(us_tag(s, object), us_load_relaxed16(&s->self->owner));
    return US_OK;
}

#define LOOK_EVERY 64 /* slow paths: has somebody died? */

#define POP_MISS  0 /* not for the fast path */
#define POP_RACED 1 /* somebody else was faster: again */
#define POP_BAD                                                                        \
    2 /* the object had an owner: off the list with it, and look closely               \
       */

/*
 * Source 1. The object is named in the intent before its link is read, and the freelist
 * is looked at again in between: see us_uncommit(). An object that somebody owns is
 * taken off the list and left alone; the next one is tried.
 */
US_INLINE uint64_t pop(struct us_cache *s, struct us_thread *t,
                       struct us_kmem_cache_cpu *c, int node)
{
    struct us_pair old, new;
    uint64_t active;
    uint16_t *tag;

    old.hi = us_load_acquire64(&c->freelist.hi);
    old.lo = us_load_acquire64(&c->freelist.lo);
    active = us_load_acquire64(&c->active);
    if (US_UNLIKELY(!us_active_covers(s, active, old.lo) || !us_tid_ours(s, old.hi) ||
                    (node >= 0 && us_active_read(active).node != (uint32_t)node))) {
        return POP_MISS;
    }
    us_intent_begin(t, US_OP_ALLOC, old.lo + s->offset);
    if (US_UNLIKELY(us_load_relaxed64(&c->freelist.lo) != old.lo)) {
        return POP_RACED;
    }
    new.lo = us_link_guess(s, old.lo);
    new.hi = us_next_tid(old.hi);
    if (US_UNLIKELY(!us_cas_pair(&c->freelist, old, new))) {
        us_stat_add(c, US_STAT_CMPXCHG_DOUBLE_CPU_FAIL, 1);
        return POP_RACED;
    }
    tag = us_tag(s, old.lo);
    if (US_UNLIKELY(!us_tag_is(tag, 0))) {
        (void)claim_failed(s, old.lo);
        return POP_BAD;
    }
    us_tag_set(tag, us_load_relaxed16(&s->self->owner));
    us_intent_end(t);
    us_stat_add(c, US_STAT_ALLOC_FASTPATH, 1);
    return old.lo;
}

/* ---- slow path; the lock of the CPU slot is held ---- */

/* Source 2. *freelist 0: none; then the CPU has no slab any more. */
static us_err from_cpu_slab(struct us_request *r, uint32_t *page, uint64_t *freelist)
{
    struct us_active active = us_active_read(us_load_acquire64(&r->c->active));
    us_err err;

    if (active.page == 0) {
        return US_OK;
    }
    *freelist = us_cpu_detach(r->c);
    if (r->node >= 0 && active.node != (uint32_t)r->node) {
        uint64_t list = *freelist;

        *freelist = 0;
        us_stat_add(r->c, US_STAT_ALLOC_NODE_MISMATCH, 1);
        return us_deactivate_slab(r->s, r->t, r->c, active.page, list);
    }
    *page = active.page;
    if (*freelist != 0) {
        return US_OK; /* somebody freed meanwhile */
    }
    err = us_get_freelist(r->s, r->c, active.page, freelist);
    if (err == US_OK) {
        us_stat_add(r->c, *freelist ? US_STAT_ALLOC_REFILL : US_STAT_DEACTIVATE_BYPASS,
                    1);
    }
    return err;
}

static bool fits(const struct us_request *r, uint32_t page, const struct us_page *p)
{
    return (r->node < 0 || us_page_node(r->s->arena, page) == (uint32_t)r->node) &&
           (!(us_load_relaxed16(&p->flags) & US_PAGE_PFMEMALLOC) ||
            (r->gfp & US_GFP_EMERGENCY));
}

/* Source 3. Slabs that do not fit the request go to their node on the way. */
static us_err from_chain(struct us_request *r, uint32_t *page, uint64_t *freelist)
{
    uint32_t head;

    while ((head = us_load_relaxed32(&r->c->partial)) != 0) {
        struct us_page *p = us_slab_at(r->s, head);
        us_err err;

        if (p == NULL) {
            return US_ECORRUPT;
        }
        us_store_release32(&r->c->partial, us_load_relaxed32(&p->chain_next));
        us_store_relaxed32(&p->chain_next, 0);
        if (fits(r, head, p)) {
            us_stat_add(r->c, US_STAT_CPU_PARTIAL_ALLOC, 1);
            *page = head;
            return us_get_freelist(r->s, r->c, head, freelist);
        }
        err = us_put_partials(r->s, r->t, r->c, head);
        if (err != US_OK) {
            return err;
        }
    }
    return US_OK;
}

/* Makes room for a slab that was made while the lock was not held. */
static us_err displace(struct us_request *r)
{
    struct us_active active = us_active_read(us_load_acquire64(&r->c->active));
    us_err err;

    if (active.page == 0) {
        return US_OK;
    }
    err = us_deactivate_slab(r->s, r->t, r->c, active.page, us_cpu_detach(r->c));
    us_stat_add(r->c, US_STAT_CPUSLAB_FLUSH, 1);
    return err;
}

/*
 * The lock of the slot, with a cache that nobody is destroying: whoever destroys it
 * goes through all slots after he has said so, and counts slabs then.
 */
static us_err lock_settled(struct us_request *r)
{
    us_err err;

    for (int tries = 0; tries < 3; tries++) {
        err = us_cache_settled(r->s, r->t);
        if (err == US_OK) {
            err = us_cache_lock(r->s, r->t, &r->c->lock, false);
        }
        if (err != US_OK) {
            return err;
        }
        r->locked = true;
        if (us_cache_alive(r->s) == US_OK) {
            return US_OK;
        }
        us_unlock(r->t, &r->c->lock);
        r->locked = false;
    }
    return us_cache_alive(r->s);
}

/*
 * The tables of the cache are about to be read, without a lock: whoever destroys it
 * sees our intent, or we see that he does.
 */
static us_err begin_slab(struct us_request *r)
{
    us_store_relaxed32(&r->t->cache, r->s->id);
    us_intent_begin(r->t, US_OP_ALLOC_SLOW, 0);
    us_fence();
    return us_cache_settled(r->s, r->t);
}

/*
 * Source 5: without the lock, which is held again when there is a slab. What could not
 * be used, because the slot or the cache cannot be had any more, goes back.
 */
static us_err from_pages(struct us_request *r, uint32_t gfp, uint32_t *page,
                         uint64_t *freelist)
{
    struct us_slab_word word = {.frozen = true};
    struct us_fresh fresh;
    us_err err;

    us_unlock(r->t, &r->c->lock);
    r->locked = false;
    err = begin_slab(r);
    if (err == US_OK) {
        err = us_slab_new(r->s, r->t, gfp, r->cpu, r->node, &fresh);
    }
    if (err != US_OK) {
        return err;
    }
    us_intent_begin(r->t, US_OP_ALLOC_SLOW, 0); /* a constructor may have allocated */
    us_store_relaxed32(&r->t->cache, r->s->id);
    err = lock_settled(r);
    if (err != US_OK) {
        us_pages_free(r->s->arena, r->t, fresh.run.page);
        return err;
    }
    word.inuse = fresh.objects;
    us_slab_publish(r->s, &fresh, word);
    *page = fresh.run.page;
    *freelist = fresh.first;
    us_stat_add(r->c, US_STAT_ALLOC_SLAB, 1);
    return displace(r);
}

/* All sources but the first. The first round insists on the node, the second only
 * prefers it. */
static us_err find_slab(struct us_request *r, uint32_t *page, uint64_t *freelist)
{
    bool insists = r->node >= 0 && !(r->gfp & US_GFP_THISNODE);

    for (;;) {
        uint32_t gfp = insists ? r->gfp | US_GFP_THISNODE : r->gfp;
        us_err err;

        *freelist = 0;
        *page = 0;
        err = from_cpu_slab(r, page, freelist);
        if (err == US_OK && *freelist == 0) {
            err = from_chain(r, page, freelist);
        }
        if (err == US_OK && *freelist == 0) {
            err = us_get_partial(r, gfp, page, freelist);
        }
        if (err == US_OK && *freelist == 0) {
            err = from_pages(r, gfp, page, freelist);
        }
        if (err != US_ENOMEM || !insists) {
            return err;
        }
        insists = false;
        if (!r->locked && (err = lock_settled(r)) != US_OK) {
            return err;
        }
    }
}

/* The first object of the list is the answer, the rest becomes the CPU freelist. */
static us_err load_freelist(struct us_request *r, uint32_t page, uint64_t freelist,
                            uint64_t *ret)
{
    struct us_page *p = us_slab_at(r->s, page);
    struct us_slab_word word;
    uint64_t rest;
    uint32_t index;
    us_err err;

    if (p == NULL) {
        return US_ECORRUPT;
    }
    word = us_slab_read(us_slab_load(p));
    if (!us_object_index(r->s, page, word.objects, freelist, &index)) {
        return us_fail(US_ECORRUPT,
                       "arena '%s': the freelist of the slab at page %u leads to "
                       "0x%llx, which is no object of it; recreate the arena",
                       r->s->arena->name, page, (unsigned long long)freelist);
    }
    rest = us_link_get(r->s, freelist);
    if (us_load_relaxed16(&p->flags) & US_PAGE_PFMEMALLOC) {
        err = us_deactivate_slab(r->s, r->t, r->c, page, rest); /* divergence D5 */
    } else {
        us_cpu_install(r->s, r->c, page, word.objects, rest);
        err = US_OK;
    }
    *ret = freelist;
    return err == US_OK ? us_claim(r->s, freelist) : err;
}

/* The lock of the slot is held, and not any more afterwards. */
static us_err alloc_locked(struct us_request *r, uint64_t *ret)
{
    uint64_t freelist = 0;
    uint32_t page = 0;
    us_err err = us_cache_usable(r->s);

    r->locked = true;
    if (err == US_OK) {
        us_stat_add(r->c, US_STAT_ALLOC_SLOWPATH, 1);
        us_store_relaxed32(&r->t->cache, r->s->id);
        us_store_relaxed32(&r->t->cpu, r->cpu);
        us_intent_begin(r->t, US_OP_ALLOC_SLOW, 0);
        err = find_slab(r, &page, &freelist);
    }
    if (err == US_OK) {
        err = load_freelist(r, page, freelist, ret);
    }
    us_intent_end(r->t);
    if (r->locked) {
        us_unlock(r->t, &r->c->lock);
    }
    return err;
}

static US_COLD us_err alloc_slow(struct us_request *r, uint64_t *ret)
{
    uint64_t *count = &r->s->arena->slow_paths;
    us_err err;

    us_intent_end(r->t);
    us_count64(count, 1);
    if (us_load_relaxed64(count) % LOOK_EVERY == 0 ||
        us_load_relaxed32(&r->s->shared->suspect) != 0) {
        us_reap_sometimes(r->s->arena);
    }
    err = us_arena_sound(r->s->arena);
    if (err == US_OK) {
        err = us_cache_lock(r->s, r->t, &r->c->lock, false);
    }
    return err == US_OK ? alloc_locked(r, ret) : err;
}

/* ---- without the slot: its lock is in hands that do not let go ---- */

static uint64_t pop_patiently(struct us_request *r)
{
    uint64_t object;
    int tries = 0;

    do {
        object = pop(r->s, r->t, r->c, r->node);
    } while (object == POP_RACED && ++tries < 1000);
    return object;
}

/* Any slot is correct: from the fast path of another one, or its slow path. */
static us_err from_other_slots(struct us_request *r, uint64_t *ret)
{
    uint32_t nearest = r->cpu;
    us_err err = US_ELOCKED;

    for (uint32_t i = 1; err == US_ELOCKED && i < r->s->arena->cpus; i++) {
        r->cpu = (nearest + i) % r->s->arena->cpus;
        r->c = us_cpu(r->s, r->cpu);
        *ret = pop_patiently(r);
        us_intent_end(r->t);
        if (*ret > POP_BAD) {
            return US_OK;
        }
        if (us_trylock(r->s->arena, r->t, &r->c->lock)) {
            err = alloc_locked(r, ret);
        }
    }
    if (err == US_ELOCKED) {
        r->cpu = nearest;
        r->c = us_cpu(r->s, nearest);
    }
    return err;
}

static us_err from_lists(struct us_request *r, uint64_t *ret)
{
    const struct us_arena *a = r->s->arena;
    uint32_t first = r->node >= 0 ? (uint32_t)r->node : a->config.cpu_node[r->cpu];
    uint32_t nodes = r->node >= 0 && (r->gfp & US_GFP_THISNODE) ? 1 : a->nodes;
    us_err err = US_ENOMEM;

    for (uint32_t i = 0; err == US_ENOMEM && i < nodes; i++) {
        err = us_alloc_listed(r, a->zonelist[first][i], ret);
        if (err == US_ENOMEM) {
            err = us_pop_stray(r, us_node(r->s, a->zonelist[first][i]), ret);
        }
    }
    return err;
}

/* Under list_lock, which whoever destroys the cache takes after he has said so. */
static us_err publish_listed(struct us_request *r, const struct us_fresh *fresh,
                             struct us_slab_word word)
{
    us_err err = us_cache_alive(r->s);

    if (err != US_OK) {
        return err;
    }
    us_slab_publish(r->s, fresh, word);
    return word.freelist == 0 ? US_OK : us_add_partial(r->s, fresh->run.page, true);
}

/* The cache may have been destroyed before it could count the stray: back with it, if
 * nobody has listed it yet. */
static us_err withdraw(struct us_request *r, const struct us_fresh *fresh, us_err why)
{
    struct us_page *p = r->s->arena->pages + fresh->run.page;
    struct us_pair old = us_slab_load(p);
    struct us_slab_word word = us_slab_read(old);

    if (word.mark != US_MARK_STRAY && word.freelist != 0) {
        return US_OK;
    }
    word.mark = 0;
    if (!us_slab_swap(p, old, word)) {
        return US_OK;
    }
    us_store_release16(us_tag(r->s, fresh->first), 0);
    us_slab_unpublish(r->s, r->t, fresh->run.page);
    return why;
}

/* Without any lock: the intent names the slab until it is counted and published. */
static us_err publish_stray(struct us_request *r, const struct us_fresh *fresh,
                            struct us_slab_word word)
{
    us_err err;

    if (word.freelist != 0) {
        word.frozen = true;
        word.mark = US_MARK_STRAY;
    }
    us_intent_begin(r->t, US_OP_ALLOC_SLOW, us_page_offset(fresh->run.page));
    us_slab_publish(r->s, fresh, word);
    us_fence();
    err = us_cache_alive(r->s);
    if (err != US_OK) {
        err = withdraw(r, fresh, err);
    }
    if (err == US_OK) {
        us_store_release32(&us_node(r->s, fresh->run.node)->strays, 1);
    }
    us_intent_begin(r->t, US_OP_ALLOC_SLOW, 0);
    if (err == US_OK) {
        us_stray(r->s, r->t, fresh->run.page);
    }
    return err;
}

/* A new slab goes to its node's list at once, less one object; without that lock, too,
 * it is a stray. */
static us_err from_fresh(struct us_request *r, uint64_t *ret)
{
    struct us_slab_word word = {.inuse = 1};
    struct us_cache *s = r->s;
    struct us_kmem_cache_node *n;
    struct us_fresh fresh;
    us_err err = begin_slab(r);

    if (err == US_OK) {
        err = us_slab_new(s, r->t, r->gfp, r->cpu, r->node, &fresh);
    }
    if (err != US_OK) {
        return err;
    }
    us_intent_begin(r->t, US_OP_ALLOC_SLOW, 0); /* a constructor may have allocated */
    us_store_relaxed32(&r->t->cache, s->id);
    n = us_node(s, fresh.run.node);
    *ret = fresh.first;
    word.freelist = us_link_get(s, fresh.first);
    us_store_release16(us_tag(s, *ret), us_me(s->arena)); /* nobody can find it yet */
    if (us_list_lock(s, r->t, n)) {
        err = publish_listed(r, &fresh, word);
        us_list_unlock(s, r->t, n);
    } else {
        err = publish_stray(r, &fresh, word);
    }
    if (err == US_OK) {
        us_stat_add(r->c, US_STAT_ALLOC_SLAB, 1);
    } else {
        us_pages_free(s->arena, r->t, fresh.run.page);
    }
    return err;
}

static US_COLD us_err alloc_around(struct us_request *r, uint64_t *ret)
{
    us_err err = from_other_slots(r, ret);

    if (err != US_ELOCKED) {
        return err;
    }
    err = us_cache_settled(r->s, r->t);
    if (err == US_OK) {
        us_stat_add(r->c, US_STAT_ALLOC_SLOWPATH, 1);
        us_intent_begin(r->t, US_OP_ALLOC_SLOW, 0);
        err = from_lists(r, ret);
    }
    if (err == US_ENOMEM) {
        us_intent_begin(r->t, US_OP_ALLOC_SLOW, 0);
        err = from_fresh(r, ret);
    }
    us_intent_end(r->t);
    return err;
}

static us_err alloc_any(struct us_request *r, uint64_t *ret)
{
    us_err err = alloc_slow(r, ret);

    if (err == US_ELOCKED) {
        err = alloc_around(r, ret);
    }
    if (err == US_ECORRUPT) { /* lists are made anew from the tags */
        us_store_release32(&r->s->shared->suspect, 1);
    }
    return err;
}

uint64_t us_alloc_one(struct us_request *r)
{
    uint64_t object = pop_patiently(r);
    us_err err;

    if (object > POP_BAD) {
        return object;
    }
    err = alloc_any(r, &object);
    if (err == US_ENOMEM) {
        us_reclaim(r->s->arena, r->t);
        err = alloc_any(r, &object); /* divergence D17 */
    }
    return err == US_OK ? object : 0;
}

us_err us_request_init(struct us_cache *s, uint32_t gfp, int cpu, int node,
                       struct us_request *ret)
{
    const struct us_arena *a = s->arena;

    if (cpu < -1 || cpu >= (int)a->cpus || node < -1 || node >= (int)a->nodes) {
        return us_fail(
            US_EBADARG,
            "CPU %d, node %d: arena '%s' has CPUs 0 to %u and nodes 0 to %u; -1 "
            "means the nearest",
            cpu, node, a->name, a->cpus - 1, a->nodes - 1);
    }
    ret->s = s;
    ret->t = us_thread_self(s->arena);
    ret->cpu = cpu < 0 ? us_cpu_slot(a) : (uint32_t)cpu;
    ret->c = us_cpu(s, ret->cpu);
    ret->node = node;
    ret->gfp = gfp;
    return ret->t == NULL ? us_last_code() : US_OK;
}

void *us_alloc_on(us_cache *s, uint32_t gfp, int cpu, int node)
{
    struct us_request r;
    uint64_t object;

    if (us_request_init(s, gfp, cpu, node, &r) != US_OK ||
        (object = us_alloc_one(&r)) == 0) {
        return NULL;
    }
    if (gfp & US_GFP_ZERO) {
        memset(us_at(s->arena, object), 0, us_object_bytes(s));
    }
    return us_at(s->arena, object);
}

/* Whatever the fast path does not do: a thread's first call, an empty freelist, a race.
 */
static US_COLD void *alloc_miss(us_cache *s)
{
    return us_alloc_on(s, 0, -1, -1);
}

void *us_alloc(us_cache *s)
{
    uint32_t cpu = us_cpu_quick();
    uint64_t object;

    if (US_UNLIKELY(us_tls.id != us_self_id(s->self) || cpu >= s->cpu_count)) {
        return alloc_miss(s);
    }
    object = pop(s, us_tls.thread, us_cpu(s, cpu), -1);
    return US_LIKELY(object > POP_BAD) ? s->base + object : alloc_miss(s);
}
