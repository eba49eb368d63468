/* SPDX-License-Identifier: MIT */
/*
 * cpu.c - one CPU slot: its slab, its freelist, its chain of partial slabs.
 *
 * Fast paths run on a slot without its lock. What keeps them apart from us is the order
 * of stores: unpublish `active`, then swap the freelist away with a new tid; install
 * the freelist with a new tid, then publish. A fast path reads the tid first and
 * `active` second, so it either sees no slab or fails its swap.
 */
#include "cache/cache.h"

us_err us_cache_lock(struct us_cache *s, struct us_thread *t, uint32_t *word,
                     bool patient)
{
    us_err err =
        patient ? us_lock_patiently(s->arena, t, word) : us_lock(s->arena, t, word);

    if (US_UNLIKELY(err == US_EOWNERDEAD)) {
        us_store_release32(&s->shared->suspect, 1);
        us_reap_soon(s->arena);
        err = us_lock(s->arena, t, word);
    }
    return err == US_EOWNERDEAD ? US_ELOCKED : err;
}

uint64_t us_cpu_detach(struct us_kmem_cache_cpu *c)
{
    struct us_pair old, new;

    us_store_release64(&c->active, 0);
    do {
        old.hi = us_load_acquire64(&c->freelist.hi);
        old.lo = us_load_acquire64(&c->freelist.lo);
        new.lo = 0;
        new.hi = us_next_tid(old.hi);
    } while (!us_cas_pair(&c->freelist, old, new));
    return old.lo;
}

void us_cpu_install(struct us_cache *s, struct us_kmem_cache_cpu *c, uint32_t page,
                    uint32_t objects, uint64_t freelist)
{
    struct us_active active = {page, objects, us_page_node(s->arena, page)};
    struct us_pair old, new;

    do {
        old.hi = us_load_acquire64(&c->freelist.hi);
        old.lo = us_load_acquire64(&c->freelist.lo);
        new.lo = freelist;
        new.hi = us_next_tid(old.hi);
    } while (!us_cas_pair(&c->freelist, old, new));
    us_store_release64(&c->active, us_active_pack(active));
}

us_err us_get_freelist(struct us_cache *s, struct us_kmem_cache_cpu *c, uint32_t page,
                       uint64_t *ret)
{
    struct us_page *p = us_slab_at(s, page);
    struct us_slab_word word;
    struct us_pair old;

    if (p == NULL) {
        return US_ECORRUPT;
    }
    for (;;) {
        old = us_slab_load(p);
        word = us_slab_read(old);
        *ret = word.freelist;
        word.inuse = word.objects;
        word.frozen = word.freelist != 0;
        word.freelist = 0;
        if (us_slab_swap(p, old, word)) {
            return US_OK;
        }
        us_stat_add(c, US_STAT_CMPXCHG_DOUBLE_FAIL, 1);
    }
}

/* The verdict on a slab that a CPU gives up. */
enum outcome { SLAB_EMPTY, SLAB_PARTIAL, SLAB_FULL };

static enum outcome judge(const struct us_cache *s, const struct us_kmem_cache_node *n,
                          struct us_slab_word word)
{
    if (word.inuse == 0 && us_load_relaxed32(&n->nr_partial) >=
                               us_load_relaxed32(&s->shared->min_partial)) {
        return SLAB_EMPTY;
    }
    return word.freelist != 0 ? SLAB_PARTIAL : SLAB_FULL;
}

/*
 * Splices `count` objects (freelist..last) onto the slab and unfreezes it, in one swap.
 * A slab that will be on a list is put there under the lock taken before the swap, so
 * that nobody meets it unfrozen and off the list; without the lock it stays frozen, as
 * a stray.
 */
static us_err give_back(struct us_cache *s, struct us_thread *t,
                        struct us_kmem_cache_cpu *c, uint32_t page, uint64_t freelist,
                        uint64_t last, uint32_t count, bool tail, enum outcome *outcome)
{
    struct us_page *p = s->arena->pages + page;
    struct us_kmem_cache_node *n = us_slab_node(s, page);
    bool locked = false, refused = false;
    us_err err = US_OK;

    for (;;) {
        struct us_pair old = us_slab_load(p);
        struct us_slab_word word = us_slab_read(old);

        if (count > word.inuse) {
            err = us_fail(US_ECORRUPT,
                          "arena '%s': the slab at page %u says that %u objects "
                          "are in use, its CPU has %u of them free; recreate the arena",
                          s->arena->name, page, word.inuse, count);
            break;
        }
        if (count != 0) {
            us_link_set(s, last, word.freelist);
            word.freelist = freelist;
            word.inuse -= count;
        }
        word.frozen = false;
        *outcome = judge(s, n, word);
        if (*outcome == SLAB_PARTIAL && !locked && !refused) {
            locked = us_list_lock(s, t, n);
            refused = !locked;
        }
        if (*outcome == SLAB_PARTIAL && refused) {
            word.frozen = true;
            word.mark = US_MARK_STRAY;
        }
        if (us_slab_swap(p, old, word)) {
            if (word.mark == US_MARK_STRAY) {
                us_stray(s, t, page);
            } else if (*outcome == SLAB_PARTIAL) {
                err = us_add_partial(s, page, tail);
            }
            break;
        }
        us_stat_add(c, US_STAT_CMPXCHG_DOUBLE_FAIL, 1);
    }
    if (locked) {
        us_list_unlock(s, t, n);
    }
    return err;
}

us_err us_deactivate_slab(struct us_cache *s, struct us_thread *t,
                          struct us_kmem_cache_cpu *c, uint32_t page, uint64_t freelist)
{
    struct us_page *p = us_slab_at(s, page);
    struct us_slab_word word;
    enum outcome outcome = SLAB_FULL;
    uint32_t count;
    uint64_t last;
    bool tail;
    us_err err;

    if (p == NULL) {
        return US_ECORRUPT;
    }
    word = us_slab_read(us_slab_load(p));
    tail = word.freelist != 0;
    if (tail) {
        us_stat_add(c, US_STAT_DEACTIVATE_REMOTE_FREES, 1);
    }
    err = us_chain_measure(s, page, word.objects, freelist, &count, &last);
    if (err == US_OK) {
        err = give_back(s, t, c, page, freelist, last, count, tail, &outcome);
    }
    if (err != US_OK) {
        return err;
    }
    if (outcome == SLAB_EMPTY) {
        us_stat_add(c, US_STAT_DEACTIVATE_EMPTY, 1);
        us_slab_discard(s, t, page);
        us_stat_add(c, US_STAT_FREE_SLAB, 1);
    } else if (outcome == SLAB_PARTIAL) {
        us_stat_add(c, tail ? US_STAT_DEACTIVATE_TO_TAIL : US_STAT_DEACTIVATE_TO_HEAD,
                    1);
    } else {
        us_stat_add(c, US_STAT_DEACTIVATE_FULL, 1);
    }
    return US_OK;
}

/* ---- the chain ---- */

us_err us_put_cpu_partial_locked(struct us_cache *s, struct us_kmem_cache_cpu *c,
                                 uint32_t page, bool drain, uint32_t *drained)
{
    struct us_page *p = s->arena->pages + page, *head;
    uint32_t old = us_load_relaxed32(&c->partial), slabs = 0;

    *drained = 0;
    if (old != 0) {
        head = us_slab_at(s, old);
        if (head == NULL) {
            return US_ECORRUPT;
        }
        slabs = us_load_relaxed32(&head->chain_count);
        if (drain && slabs >= us_load_relaxed32(&s->shared->cpu_partial_slabs)) {
            *drained = old;
            old = slabs = 0;
        }
    }
    us_store_relaxed32(&p->chain_next, old);
    us_store_relaxed32(&p->chain_count, slabs + 1);
    us_store_release32(&c->partial, page);
    return US_OK;
}

bool us_unfreeze(struct us_cache *s, struct us_kmem_cache_node *n, uint32_t page,
                 uint32_t *fails)
{
    struct us_page *p = s->arena->pages + page;
    struct us_slab_word word;
    struct us_pair old;

    for (;;) {
        old = us_slab_load(p);
        word = us_slab_read(old);
        word.frozen = false;
        word.mark = 0;
        if (us_slab_swap(p, old, word)) {
            break;
        }
        ++*fails;
    }
    return word.inuse == 0 && us_load_relaxed32(&n->nr_partial) >=
                                  us_load_relaxed32(&s->shared->min_partial);
}

/* The list of its node cannot be had: the slab waits for whoever has it next. */
static void mark_stray(struct us_cache *s, struct us_thread *t, uint32_t page)
{
    struct us_page *p = s->arena->pages + page;

    for (;;) {
        struct us_pair old = us_slab_load(p);
        struct us_slab_word word = us_slab_read(old);

        word.mark = US_MARK_STRAY;
        if (us_slab_swap(p, old, word)) {
            us_stray(s, t, page);
            return;
        }
    }
}

/* One slab of a drained chain goes to its node, whose lock is held, or to *discards. */
static us_err put_partial(struct us_cache *s, struct us_thread *t,
                          struct us_kmem_cache_cpu *c, struct us_kmem_cache_node *n,
                          uint32_t page, uint32_t *discards)
{
    uint32_t fails = 0;
    us_err err = US_OK;

    if (us_unfreeze(s, n, page, &fails)) {
        us_slab_unpublish(s, t, page);
        us_store_relaxed32(&s->arena->pages[page].chain_next, *discards);
        *discards = page;
        us_stat_add(c, US_STAT_DEACTIVATE_EMPTY, 1);
    } else {
        err = us_add_partial(s, page, true);
        us_stat_add(c, US_STAT_FREE_ADD_PARTIAL, 1);
    }
    us_stat_add(c, US_STAT_CMPXCHG_DOUBLE_FAIL, fails);
    return err;
}

uint32_t us_free_pile(struct us_cache *s, struct us_thread *t, uint32_t pile)
{
    uint32_t count = 0;

    while (pile != 0) {
        struct us_page *p = us_page_at(s->arena, pile);
        uint32_t page = pile;

        if (p == NULL || !us_pages_ours(p, us_thread_slot(s->arena, t))) {
            us_store_release32(&s->shared->suspect, 1);
            break; /* somebody has written over the links of our pile */
        }
        pile = us_load_relaxed32(&p->chain_next);
        us_pages_free(s->arena, t, page);
        count++;
    }
    return count;
}

us_err us_put_partials(struct us_cache *s, struct us_thread *t,
                       struct us_kmem_cache_cpu *c, uint32_t chain)
{
    struct us_kmem_cache_node *n = NULL;
    uint32_t discards = 0, steps = 0;
    us_err err = US_OK;

    while (chain != 0 && err == US_OK) {
        struct us_page *p = us_slab_at(s, chain);
        struct us_kmem_cache_node *its = us_slab_node(s, chain);
        uint32_t page = chain;

        if (p == NULL || steps++ > s->arena->at.data_pages) {
            err = US_ECORRUPT;
            break;
        }
        chain = us_load_relaxed32(&p->chain_next);
        if (its != n && n != NULL) {
            us_list_unlock(s, t, n);
            n = NULL;
        }
        if (its != n && us_list_lock(s, t, its)) {
            n = its;
        }
        if (n == its) {
            err = put_partial(s, t, c, n, page, &discards);
        } else {
            mark_stray(s, t, page);
        }
    }
    if (n != NULL) {
        us_list_unlock(s, t, n);
    }
    us_stat_add(c, US_STAT_FREE_SLAB, us_free_pile(s, t, discards));
    return err;
}

/* ---- flush ---- */

us_err us_flush_slab_locked(struct us_cache *s, struct us_thread *t,
                            struct us_kmem_cache_cpu *c)
{
    struct us_active active = us_active_read(us_load_acquire64(&c->active));
    us_err err;

    if (active.page == 0) {
        return US_OK;
    }
    err = us_deactivate_slab(s, t, c, active.page, us_cpu_detach(c));
    us_stat_add(c, US_STAT_CPUSLAB_FLUSH, 1);
    return err;
}

us_err us_flush_chain_locked(struct us_cache *s, struct us_thread *t,
                             struct us_kmem_cache_cpu *c)
{
    uint32_t chain = us_load_relaxed32(&c->partial);

    us_store_release32(&c->partial, 0);
    return us_put_partials(s, t, c, chain);
}

typedef us_err (*flush_fn)(struct us_cache *, struct us_thread *,
                           struct us_kmem_cache_cpu *);

static us_err with_slot(struct us_cache *s, struct us_thread *t, uint32_t cpu,
                        bool patient, flush_fn first, flush_fn second)
{
    struct us_kmem_cache_cpu *c = us_cpu(s, cpu);
    us_err err = us_cache_lock(s, t, &c->lock, patient);

    if (err != US_OK) {
        return err;
    }
    us_store_relaxed32(&t->cache, s->id);
    us_store_relaxed32(&t->cpu, cpu);
    us_intent_begin(t, US_OP_FLUSH, 0);
    err = first(s, t, c);
    if (err == US_OK && second != NULL) {
        err = second(s, t, c);
    }
    us_intent_end(t);
    us_unlock(t, &c->lock);
    return err;
}

us_err us_flush_cpu(struct us_cache *s, struct us_thread *t, uint32_t cpu)
{
    return with_slot(s, t, cpu, true, us_flush_slab_locked, us_flush_chain_locked);
}

us_err us_flush_all(struct us_cache *s, struct us_thread *t, bool patient)
{
    us_err err = US_OK;

    for (uint32_t cpu = 0; cpu < s->arena->cpus; cpu++) {
        us_err failed =
            with_slot(s, t, cpu, patient, us_flush_slab_locked, us_flush_chain_locked);

        err = err == US_OK ? failed : err;
    }
    return err;
}

/* One of the calls below: every CPU, or one, or a half. */
static us_err flush_call(us_cache *s, int cpu, flush_fn first, flush_fn second)
{
    struct us_thread *t = us_thread_self(s->arena);
    us_err err = t == NULL ? us_last_code() : us_cache_alive(s);

    if (err == US_OK && (cpu < -1 || cpu >= (int)s->arena->cpus)) {
        err = us_fail(US_EBADARG, "CPU %d: the arena has CPUs 0 to %u", cpu,
                      s->arena->cpus - 1);
    }
    for (uint32_t i = 0; err == US_OK && i < s->arena->cpus; i++) {
        if (cpu == -1 || cpu == (int)i) {
            err = with_slot(s, t, i, true, first, second);
        }
    }
    return err;
}

us_err us_cache_flush(us_cache *s, int cpu)
{
    return flush_call(s, cpu, us_flush_slab_locked, us_flush_chain_locked);
}

us_err us_cache_flush_slab(us_cache *s, int cpu)
{
    return flush_call(s, cpu, us_flush_slab_locked, NULL);
}

us_err us_cache_flush_chain(us_cache *s, int cpu)
{
    return flush_call(s, cpu, us_flush_chain_locked, NULL);
}

static us_err shrink(us_cache *s, bool flush)
{
    struct us_thread *t = us_thread_self(s->arena);
    us_err err = t == NULL ? us_last_code() : us_cache_alive(s);

    if (err == US_OK && flush) {
        err = us_flush_all(s, t, true);
    }
    for (uint32_t node = 0; err == US_OK && node < s->arena->nodes; node++) {
        err = us_shrink_node(s, t, node, true, true);
    }
    return err;
}

us_err us_cache_shrink(us_cache *s)
{
    return shrink(s, true);
}

us_err us_cache_shrink_nodes(us_cache *s)
{
    return shrink(s, false);
}
