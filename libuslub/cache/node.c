/* SPDX-License-Identifier: MIT */
/*
 * node.c - the partial lists of a node: ordered, head and tail matter.
 *
 * A listed slab is not frozen and has a free object. Taking one off and freezing it
 * happen under one hold of list_lock, so nobody meets a slab that is neither listed nor
 * frozen. Links are page numbers in the descriptors; every one is checked before it is
 * followed.
 */
#include "cache/cache.h"

/* Descriptor of a neighbour in the list, or NULL: the list is damaged. */
static struct us_page *neighbour(const struct us_cache *s, uint32_t page)
{
    struct us_page *p = us_slab_at(s, page);

    if (p != NULL && !(us_load_relaxed16(&p->flags) & US_PAGE_PARTIAL)) {
        us_store_release32(&s->shared->suspect, 1);
        us_fail(US_ECORRUPT,
                "arena '%s': page %u is linked into a node list of cache id %u but "
                "not marked so; recreate the arena",
                s->arena->name, page, s->id);
        return NULL;
    }
    return p;
}

/* What is written in shared memory must not decide how long we walk. */
static uint32_t steps_max(const struct us_cache *s, const struct us_kmem_cache_node *n)
{
    uint32_t steps = us_load_relaxed32(&n->nr_partial);

    return steps < s->arena->at.data_pages ? steps : (uint32_t)s->arena->at.data_pages;
}

/* ---- the lock of a list ---- */

bool us_list_lock(struct us_cache *s, struct us_thread *t, struct us_kmem_cache_node *n)
{
    us_err err = us_lock(s->arena, t, &n->list_lock);

    if (US_UNLIKELY(err == US_EOWNERDEAD)) {
        us_store_release32(&s->shared->suspect, 1); /* the next slow path sees to it */
    }
    return err == US_OK;
}

void us_list_unlock(struct us_cache *s, struct us_thread *t,
                    struct us_kmem_cache_node *n)
{
    us_unlock(t, &n->list_lock);
    us_settle_strays(s, t, n);
}

/* ---- the list ---- */

us_err us_add_partial(struct us_cache *s, uint32_t page, bool tail)
{
    struct us_kmem_cache_node *n = us_slab_node(s, page);
    struct us_page *p = s->arena->pages + page, *other;
    uint32_t end = us_load_relaxed32(tail ? &n->tail : &n->head);

    if (end != 0) {
        other = neighbour(s, end);
        if (other == NULL) {
            return US_ECORRUPT;
        }
        us_store_relaxed32(tail ? &other->next : &other->prev, page);
    }
    us_store_relaxed32(&p->next, tail ? 0 : end);
    us_store_relaxed32(&p->prev, tail ? end : 0);
    us_store_relaxed16(&p->flags, us_load_relaxed16(&p->flags) | US_PAGE_PARTIAL);
    if (tail || end == 0) {
        us_store_relaxed32(&n->tail, page);
    }
    if (!tail || end == 0) {
        us_store_relaxed32(&n->head, page);
    }
    us_store_relaxed32(&n->nr_partial, us_load_relaxed32(&n->nr_partial) + 1);
    return US_OK;
}

us_err us_remove_partial(struct us_cache *s, uint32_t page)
{
    struct us_kmem_cache_node *n = us_slab_node(s, page);
    struct us_page *p = s->arena->pages + page;
    uint32_t prev = us_load_relaxed32(&p->prev), next = us_load_relaxed32(&p->next);
    struct us_page *before = NULL, *after = NULL;

    if ((prev != 0 && (before = neighbour(s, prev)) == NULL) ||
        (next != 0 && (after = neighbour(s, next)) == NULL)) {
        return US_ECORRUPT;
    }
    us_store_relaxed32(before != NULL ? &before->next : &n->head, next);
    us_store_relaxed32(after != NULL ? &after->prev : &n->tail, prev);
    us_store_relaxed32(&p->next, 0);
    us_store_relaxed32(&p->prev, 0);
    us_store_relaxed16(&p->flags,
                       us_load_relaxed16(&p->flags) & (uint16_t)~US_PAGE_PARTIAL);
    us_store_relaxed32(&n->nr_partial, us_load_relaxed32(&n->nr_partial) - 1);
    return US_OK;
}

/* Takes every free object (`all`), or only the right to (chain slabs keep theirs). */
static uint64_t freeze(struct us_request *r, struct us_page *p, bool all)
{
    for (;;) {
        struct us_pair old = us_slab_load(p);
        struct us_slab_word word = us_slab_read(old);
        uint64_t freelist = word.freelist;

        word.frozen = true;
        if (all) {
            word.inuse = word.objects;
            word.freelist = 0;
        }
        if (us_slab_swap(p, old, word)) {
            return freelist;
        }
        us_stat_add(r->c, US_STAT_CMPXCHG_DOUBLE_FAIL, 1);
    }
}

static bool has_cpu_partial(const struct us_cache *s)
{
    return !(s->flags & US_NO_CPU_PARTIAL);
}

/* One listed slab becomes the request's (the first), or goes to its CPU's chain. */
static us_err take_listed(struct us_request *r, uint32_t page, struct us_page *p,
                          bool first, uint64_t *freelist)
{
    uint32_t drained;
    us_err err;

    if (us_slab_read(us_slab_load(p)).frozen) {
        us_store_release32(&r->s->shared->suspect, 1);
        return us_fail(
            US_ECORRUPT,
            "arena '%s': the slab at page %u is on a node list of cache id %u "
            "and on a CPU; the cache will be rebuilt",
            r->s->arena->name, page, r->s->id);
    }
    err = us_remove_partial(r->s, page);
    if (err != US_OK) {
        return err;
    }
    if (first) {
        *freelist = freeze(r, p, true);
        us_stat_add(r->c, US_STAT_ALLOC_FROM_PARTIAL, 1);
        return US_OK;
    }
    (void)freeze(r, p, false);
    err = us_put_cpu_partial_locked(r->s, r->c, page, false, &drained);
    us_stat_add(r->c, US_STAT_CPU_PARTIAL_NODE, 1);
    return err;
}

static us_err get_partial_locked(struct us_request *r, struct us_kmem_cache_node *n,
                                 uint32_t *page, uint64_t *freelist)
{
    uint32_t slabs_max = us_load_relaxed32(&r->s->shared->cpu_partial_slabs);
    uint32_t extra = 0, steps = steps_max(r->s, n);
    uint32_t next;

    for (uint32_t at = us_load_relaxed32(&n->head); at != 0 && steps-- != 0;
         at = next) {
        struct us_page *p = neighbour(r->s, at);
        bool first = *page == 0;
        us_err err;

        if (p == NULL) {
            return US_ECORRUPT;
        }
        next = us_load_relaxed32(&p->next);
        if ((p->flags & US_PAGE_PFMEMALLOC) && !(r->gfp & US_GFP_EMERGENCY)) {
            continue;
        }
        err = take_listed(r, at, p, first, freelist);
        if (err != US_OK) {
            return err;
        }
        if (first) {
            *page = at;
            if (slabs_max == 0 || !has_cpu_partial(r->s)) {
                break;
            }
        } else if (++extra > slabs_max / 2) {
            break;
        }
    }
    return US_OK;
}

/* Linux: get_partial_node(), mm/slub.c, v6.18. */
static us_err get_partial_node(struct us_request *r, uint32_t node, uint32_t *page,
                               uint64_t *freelist)
{
    struct us_kmem_cache_node *n = us_node(r->s, node);
    us_err err = US_OK;

    if (us_load_relaxed32(&n->strays) != 0) {
        us_settle_strays(r->s, r->t, n); /* whoever left them died before he could */
    }
    if (us_load_relaxed32(&n->nr_partial) != 0 && us_list_lock(r->s, r->t, n)) {
        err = get_partial_locked(r, n, page, freelist);
        us_list_unlock(r->s, r->t, n);
    }
    if (err == US_OK && *page == 0) {
        us_take_stray(r, n, page, freelist);
    }
    return err;
}

/* Linux: get_any_partial(), mm/slub.c, v6.18. */
static us_err get_any_partial(struct us_request *r, uint32_t *page, uint64_t *freelist)
{
    const struct us_arena *a = r->s->arena;
    uint32_t ratio = us_load_relaxed32(&r->s->shared->defrag_ratio);
    const uint32_t *zonelist = a->zonelist[a->config.cpu_node[r->cpu]];

    if (ratio == 0 || us_ticks() % 1024 > ratio) {
        return US_OK;
    }
    for (uint32_t i = 0; i < a->nodes && *page == 0; i++) {
        if (us_load_relaxed32(&us_node(r->s, zonelist[i])->nr_partial) >
            us_load_relaxed32(&r->s->shared->min_partial)) {
            us_err err = get_partial_node(r, zonelist[i], page, freelist);

            if (err != US_OK) {
                return err;
            }
        }
    }
    return US_OK;
}

us_err us_get_partial(struct us_request *r, uint32_t gfp, uint32_t *page,
                      uint64_t *freelist)
{
    uint32_t node =
        r->node >= 0 ? (uint32_t)r->node : r->s->arena->config.cpu_node[r->cpu];
    us_err err;

    *page = 0;
    err = get_partial_node(r, node, page, freelist);
    if (err != US_OK || *page != 0 || (r->node >= 0 && (gfp & US_GFP_THISNODE))) {
        return err;
    }
    return get_any_partial(r, page, freelist);
}

/* ---- shrink ---- */

#define SHRINK_BUCKETS 32

/*
 * Empty slabs go to the chain *discards; slabs with 1..32 free objects to buckets[free
 * - 1], or stay (buckets NULL).
 */
static us_err sort_out(struct us_cache *s, struct us_thread *t,
                       struct us_kmem_cache_node *n, uint32_t *buckets,
                       uint32_t *discards)
{
    uint32_t steps = steps_max(s, n), next;

    for (uint32_t page = us_load_relaxed32(&n->head); page != 0 && steps-- != 0;
         page = next) {
        struct us_page *p = neighbour(s, page);
        struct us_slab_word word;
        uint32_t *pile;
        us_err err;

        if (p == NULL) {
            return US_ECORRUPT;
        }
        next = us_load_relaxed32(&p->next);
        word = us_slab_read(us_slab_load(p));
        if (word.inuse >= word.objects) {
            return us_fail(
                US_ECORRUPT,
                "arena '%s': the slab at page %u is listed, but none of its %u "
                "objects is free; recreate the arena",
                s->arena->name, page, word.objects);
        }
        if (word.inuse != 0 &&
            (buckets == NULL || word.objects - word.inuse > SHRINK_BUCKETS)) {
            continue;
        }
        pile = word.inuse == 0 ? discards : &buckets[word.objects - word.inuse - 1];
        err = us_remove_partial(s, page);
        if (err != US_OK) {
            return err;
        }
        if (pile == discards) {
            us_slab_unpublish(s, t, page);
        }
        us_store_relaxed32(&p->chain_next, *pile);
        *pile = page;
    }
    return US_OK;
}

/*
 * The pile of one bucket, poured out at the head of the list from its tail. Its links
 * are in shared memory: what they lead to is looked at again.
 */
static us_err pour_out(struct us_cache *s, uint32_t page)
{
    struct us_page *pages = s->arena->pages;
    uint64_t steps = s->arena->at.data_pages;
    uint32_t reversed = 0;
    us_err err = US_OK;

    while (page != 0) {
        uint32_t next;

        if (steps-- == 0 || us_slab_at(s, page) == NULL) {
            return US_ECORRUPT;
        }
        next = us_load_relaxed32(&pages[page].chain_next);
        us_store_relaxed32(&pages[page].chain_next, reversed);
        reversed = page;
        page = next;
    }
    for (steps = s->arena->at.data_pages; reversed != 0 && err == US_OK; steps--) {
        uint32_t next;

        if (steps == 0 || us_slab_at(s, reversed) == NULL) {
            return US_ECORRUPT;
        }
        next = us_load_relaxed32(&pages[reversed].chain_next);
        err = us_add_partial(s, reversed, false);
        reversed = next;
    }
    return err;
}

/*
 * Linux: __kmem_cache_do_shrink(), mm/slub.c, v6.18. The fullest slabs end up first;
 * slabs with equally many free objects come out newest first.
 */
us_err us_shrink_node(struct us_cache *s, struct us_thread *t, uint32_t node, bool sort,
                      bool patient)
{
    struct us_kmem_cache_node *n = us_node(s, node);
    uint32_t buckets[SHRINK_BUCKETS] = {0}, discards = 0;
    us_err err = us_cache_lock(s, t, &n->list_lock, patient);

    if (err != US_OK) {
        return err;
    }
    us_store_relaxed32(&t->cache, s->id);
    us_intent_begin(t, US_OP_SHRINK, 0);
    err = sort_out(s, t, n, sort ? buckets : NULL, &discards);
    for (uint32_t i = SHRINK_BUCKETS; err == US_OK && i-- > 0;) {
        err = pour_out(s, buckets[i]);
    }
    us_list_unlock(s, t, n);
    (void)us_free_pile(s, t, discards);
    us_intent_end(t);
    return err;
}

/* ---- without a slot ---- */

/*
 * One object off a slab of the list, which stays where it is: for a request whose CPU
 * slots are all in hands that do not let go. Under list_lock nobody else allocates from
 * the slab, so its first free object stays free until our swap.
 */
static us_err pop_listed(struct us_request *r, uint32_t page, uint64_t *ret)
{
    struct us_page *p = r->s->arena->pages + page;
    us_err err = US_OK;
    uint32_t index;

    for (;;) {
        struct us_pair old = us_slab_load(p);
        struct us_slab_word word = us_slab_read(old);

        if (!us_object_index(r->s, page, word.objects, word.freelist, &index)) {
            us_store_release32(&r->s->shared->suspect, 1);
            return us_fail(US_ECORRUPT,
                           "arena '%s': the freelist of the slab at page %u leads to "
                           "0x%llx, which is no object of it; it will be rebuilt",
                           r->s->arena->name, page, (unsigned long long)word.freelist);
        }
        *ret = word.freelist;
        us_intent_begin(r->t, US_OP_ALLOC, *ret + r->s->offset);
        word.freelist = us_link_get(r->s, *ret);
        word.inuse++;
        if (us_slab_swap(p, old, word)) {
            err = us_claim(r->s, *ret);
            if (word.freelist == 0) {
                us_err removed = us_remove_partial(r->s, page);

                err = err == US_OK ? removed : err;
            }
            us_intent_end(r->t);
            us_stat_add(r->c, US_STAT_ALLOC_FROM_PARTIAL, 1);
            return err;
        }
        us_stat_add(r->c, US_STAT_CMPXCHG_DOUBLE_FAIL, 1);
    }
}

us_err us_alloc_listed(struct us_request *r, uint32_t node, uint64_t *ret)
{
    struct us_kmem_cache_node *n = us_node(r->s, node);
    uint32_t steps = steps_max(r->s, n), at;
    us_err err = US_ENOMEM;

    if (steps == 0 || !us_list_lock(r->s, r->t, n)) {
        return US_ENOMEM;
    }
    for (at = us_load_relaxed32(&n->head); at != 0 && steps-- != 0;) {
        struct us_page *p = neighbour(r->s, at);

        if (p == NULL) {
            err = US_ECORRUPT;
            break;
        }
        if (!(us_load_relaxed16(&p->flags) & US_PAGE_PFMEMALLOC) ||
            (r->gfp & US_GFP_EMERGENCY)) {
            err = pop_listed(r, at, ret);
            break;
        }
        at = us_load_relaxed32(&p->next);
    }
    us_list_unlock(r->s, r->t, n);
    return err;
}
