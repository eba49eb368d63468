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

    if (p != NULL && !(p->flags & US_PAGE_PARTIAL)) {
        us_fail(US_ECORRUPT,
                "arena '%s': page %u is linked into a node list of cache id %u but "
                "not marked so; recreate the arena",
                s->arena->name, page, s->id);
        return NULL;
    }
    return p;
}

us_err us_add_partial(struct us_cache *s, uint32_t page, bool tail)
{
    struct us_kmem_cache_node *n = us_slab_node(s, page);
    struct us_page *p = s->arena->pages + page, *other;
    uint32_t end = tail ? n->tail : n->head;

    if (end != 0) {
        other = neighbour(s, end);
        if (other == NULL) {
            return US_ECORRUPT;
        }
        if (tail) {
            other->next = page;
        } else {
            other->prev = page;
        }
    }
    p->next = tail ? 0 : end;
    p->prev = tail ? end : 0;
    p->flags |= US_PAGE_PARTIAL;
    if (tail || end == 0) {
        n->tail = page;
    }
    if (!tail || end == 0) {
        n->head = page;
    }
    us_store_relaxed32(&n->nr_partial, us_load_relaxed32(&n->nr_partial) + 1);
    return US_OK;
}

us_err us_remove_partial(struct us_cache *s, uint32_t page)
{
    struct us_kmem_cache_node *n = us_slab_node(s, page);
    struct us_page *p = s->arena->pages + page;
    struct us_page *before = NULL, *after = NULL;

    if ((p->prev != 0 && (before = neighbour(s, p->prev)) == NULL) ||
        (p->next != 0 && (after = neighbour(s, p->next)) == NULL)) {
        return US_ECORRUPT;
    }
    if (before != NULL) {
        before->next = p->next;
    } else {
        n->head = p->next;
    }
    if (after != NULL) {
        after->prev = p->prev;
    } else {
        n->tail = p->prev;
    }
    p->next = p->prev = 0;
    p->flags &= (uint16_t)~US_PAGE_PARTIAL;
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

        US_ASSERT(!word.frozen);
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
    us_err err = us_remove_partial(r->s, page);

    if (err != US_OK) {
        return err;
    }
    r->t->slab[first ? 0 : 1] = page;
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
    uint32_t extra = 0, steps = us_load_relaxed32(&n->nr_partial);
    uint32_t next;

    for (uint32_t at = n->head; at != 0 && steps-- != 0; at = next) {
        struct us_page *p = neighbour(r->s, at);
        bool first = *page == 0;
        us_err err;

        if (p == NULL) {
            return US_ECORRUPT;
        }
        next = p->next;
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
    us_err err;

    if (us_load_relaxed32(&n->nr_partial) == 0) {
        return US_OK;
    }
    err = us_lock(r->s->arena, r->t, &n->list_lock);
    if (err == US_OK) {
        err = get_partial_locked(r, n, page, freelist);
        us_unlock(r->t, &n->list_lock);
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
static us_err sort_out(struct us_cache *s, struct us_kmem_cache_node *n,
                       uint32_t *buckets, uint32_t *discards)
{
    uint32_t steps = us_load_relaxed32(&n->nr_partial), next;

    for (uint32_t page = n->head; page != 0 && steps-- != 0; page = next) {
        struct us_page *p = neighbour(s, page);
        struct us_slab_word word;
        uint32_t *pile;
        us_err err;

        if (p == NULL) {
            return US_ECORRUPT;
        }
        next = p->next;
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
        p->chain_next = *pile;
        *pile = page;
    }
    return US_OK;
}

/*
 * Linux: __kmem_cache_do_shrink(), mm/slub.c, v6.18. The fullest slabs end up first. A
 * bucket is filled at its head and poured out at the head of the list from its tail, so
 * slabs with equally many free objects come out newest first.
 */
us_err us_shrink_node(struct us_cache *s, struct us_thread *t, uint32_t node, bool sort)
{
    struct us_kmem_cache_node *n = us_node(s, node);
    uint32_t buckets[SHRINK_BUCKETS] = {0}, discards = 0;
    us_err err = us_lock(s->arena, t, &n->list_lock);

    if (err != US_OK) {
        return err;
    }
    t->cache = s->id;
    us_intent_begin(t, US_OP_SHRINK, 0);
    err = sort_out(s, n, sort ? buckets : NULL, &discards);
    for (uint32_t i = SHRINK_BUCKETS; err == US_OK && i-- > 0;) {
        uint32_t page = buckets[i], reversed = 0;

        while (page != 0) {
            uint32_t next = s->arena->pages[page].chain_next;

            s->arena->pages[page].chain_next = reversed;
            reversed = page;
            page = next;
        }
        while (reversed != 0 && err == US_OK) {
            uint32_t next = s->arena->pages[reversed].chain_next;

            err = us_add_partial(s, reversed, false);
            reversed = next;
        }
    }
    us_unlock(t, &n->list_lock);
    while (discards != 0 && err == US_OK) {
        uint32_t page = discards;

        discards = s->arena->pages[page].chain_next;
        us_slab_discard(s, t, page);
    }
    us_intent_end(t);
    return err;
}
