/* SPDX-License-Identifier: MIT */
/*
 * stray.c - slabs that belong on their node's list, whose lock could not be had.
 *
 * A stray is frozen and has a mark; both are in its word, so whoever finds it takes it
 * by one swap of that word: the next holder of the list lock puts it on the list, a
 * slow path makes it its CPU slab, a request without a slot takes one object off it.
 * Frees go into it as into any frozen slab. That keeps what a stopped holder of a list
 * lock costs to what is in use at the same time.
 */
#include "cache/cache.h"

static bool is_stray(const struct us_cache *s, uint32_t page, struct us_pair *raw)
{
    const struct us_page *p = us_page_at(s->arena, page);
    uint32_t order;

    if (p == NULL || us_block_state(s->arena, page, &order) != US_BLOCK_SLAB ||
        us_load_relaxed32(&p->cache) != s->id ||
        us_load_relaxed16(&p->cache_gen) != (uint16_t)s->generation) {
        return false;
    }
    *raw = us_slab_load(p);
    return us_slab_read(*raw).mark == US_MARK_STRAY;
}

/* ---- to the list ---- */

/* Nobody's any more; false: somebody else was faster. */
static bool unmark(struct us_cache *s, uint32_t page, struct us_slab_word *ret)
{
    struct us_pair raw;

    while (is_stray(s, page, &raw)) {
        *ret = us_slab_read(raw);
        ret->frozen = false;
        ret->mark = 0;
        if (us_slab_swap(s->arena->pages + page, raw, *ret)) {
            return true;
        }
    }
    return false;
}

/* The list lock is held: to the list, to the pile, or nowhere if it is full. */
static bool list_stray(struct us_cache *s, struct us_thread *t,
                       struct us_kmem_cache_node *n, uint32_t page, uint32_t *pile)
{
    struct us_slab_word word;

    if (!unmark(s, page, &word) || word.freelist == 0) {
        return true;
    }
    if (word.inuse != 0 || us_load_relaxed32(&n->nr_partial) <
                               us_load_relaxed32(&s->shared->min_partial)) {
        return us_add_partial(s, page, true) == US_OK;
    }
    us_slab_unpublish(s, t, page);
    us_store_relaxed32(&s->arena->pages[page].chain_next, *pile);
    *pile = page;
    return true;
}

/* Calls fn for every stray of the node until it says false. */
typedef bool (*stray_fn)(struct us_cache *s, struct us_thread *t,
                         struct us_kmem_cache_node *n, uint32_t page, uint32_t *arg);

static void each_stray(struct us_cache *s, struct us_thread *t,
                       struct us_kmem_cache_node *n, stray_fn fn, uint32_t *arg)
{
    const struct us_arena *a = s->arena;
    uint32_t node = (uint32_t)(n - s->node_array), order;
    uint32_t page = a->first_page + (uint32_t)(node * a->config.node_pages);
    uint32_t end = page + (uint32_t)a->config.node_pages;
    enum us_block_state state;
    struct us_pair raw;

    for (; page < end; page += us_block_step(a, state, order)) {
        state = us_block_state(a, page, &order);
        if (state == US_BLOCK_SLAB && is_stray(s, page, &raw) &&
            !fn(s, t, n, page, arg)) {
            return;
        }
    }
}

/*
 * Whoever marks a slab says so and then tries the lock; whoever lets go of the lock
 * looks afterwards. One of the two sees the other. `strays` is only ever swapped: who
 * forgets it has seen the mark of everybody who had said so.
 */
void us_settle_strays(struct us_cache *s, struct us_thread *t,
                      struct us_kmem_cache_node *n)
{
    us_fence();
    for (int round = 0; round < 8 && us_load_relaxed32(&n->strays) != 0 &&
                        us_trylock(s->arena, t, &n->list_lock);
         round++) {
        uint32_t pile = 0;

        (void)us_exchange_acq_rel32(&n->strays, 0);
        each_stray(s, t, n, list_stray, &pile);
        us_unlock(t, &n->list_lock);
        (void)us_free_pile(s, t, pile);
        us_fence();
    }
}

void us_stray(struct us_cache *s, struct us_thread *t, uint32_t page)
{
    struct us_kmem_cache_node *n = us_slab_node(s, page);

    us_store_relaxed32(&n->stray, page);
    (void)us_exchange_acq_rel32(&n->strays, 1);
    us_settle_strays(s, t, n);
}

/* ---- to a request ---- */

static bool stop_at(struct us_cache *s, struct us_thread *t,
                    struct us_kmem_cache_node *n, uint32_t page, uint32_t *ret)
{
    struct us_slab_word word = us_slab_read(us_slab_load(s->arena->pages + page));

    (void)t;
    if (word.freelist == 0) {
        return true;
    }
    us_store_relaxed32(&n->stray, page);
    *ret = page;
    return false;
}

/* A stray that this request may use, with a free object, as it was; 0: none. */
static uint32_t find_stray(struct us_request *r, struct us_kmem_cache_node *n,
                           struct us_pair *raw)
{
    uint32_t page = us_load_relaxed32(&n->stray);

    if (us_load_relaxed32(&n->strays) == 0) {
        return 0;
    }
    if (!is_stray(r->s, page, raw) || us_slab_read(*raw).freelist == 0) {
        page = 0;
        each_stray(r->s, r->t, n, stop_at, &page);
    }
    if (page == 0 || !is_stray(r->s, page, raw) || us_slab_read(*raw).freelist == 0 ||
        ((us_load_relaxed16(&r->s->arena->pages[page].flags) & US_PAGE_PFMEMALLOC) &&
         !(r->gfp & US_GFP_EMERGENCY))) {
        return 0;
    }
    return page;
}

void us_take_stray(struct us_request *r, struct us_kmem_cache_node *n, uint32_t *page,
                   uint64_t *freelist)
{
    struct us_slab_word word;
    struct us_pair raw;
    uint32_t found;

    while ((found = find_stray(r, n, &raw)) != 0) {
        word = us_slab_read(raw);
        *freelist = word.freelist;
        word.freelist = 0;
        word.inuse = word.objects;
        word.mark = 0;
        if (us_slab_swap(r->s->arena->pages + found, raw, word)) {
            *page = found;
            us_stat_add(r->c, US_STAT_ALLOC_FROM_PARTIAL, 1);
            return;
        }
        *freelist = 0;
    }
}

/*
 * Others may take objects off the same slab, or the slab: as in the fast path, the
 * object is named before its link is read, and the word is looked at again in between.
 */
us_err us_pop_stray(struct us_request *r, struct us_kmem_cache_node *n, uint64_t *ret)
{
    struct us_cache *s = r->s;
    struct us_pair raw, again;
    us_err err = US_ENOMEM;
    uint32_t page, index;

    while (err == US_ENOMEM && (page = find_stray(r, n, &raw)) != 0) {
        struct us_page *p = s->arena->pages + page;
        struct us_slab_word word = us_slab_read(raw);

        *ret = word.freelist;
        if (!us_object_index(s, page, word.objects, *ret, &index)) {
            us_store_release32(&s->shared->suspect, 1);
            break;
        }
        us_intent_begin(r->t, US_OP_ALLOC, *ret + s->offset);
        again = us_slab_load(p);
        if (again.lo != raw.lo || again.hi != raw.hi) {
            continue;
        }
        word.freelist = us_link_guess(s, *ret);
        word.inuse++;
        if (us_slab_swap(p, raw, word)) {
            err = us_claim(s, *ret);
            us_stat_add(r->c, US_STAT_ALLOC_FROM_PARTIAL, 1);
        }
    }
    us_intent_end(r->t);
    return err;
}
