/* SPDX-License-Identifier: MIT */
/*
 * free.c - one object back: to the CPU's own slab without a lock, or into any slab from
 * any CPU, whatever that slab is doing.
 *
 * The tag goes first: an object whose tag is 0 is free, even if this process dies
 * before it is on a list. Linux: do_slab_free(), __slab_free(), mm/slub.c, v6.18 (with
 * frozen chains).
 */
#include "cache/hold.h"

/* ---- what is this address? ---- */

static us_err foreign(const struct us_cache *s, uint64_t object, const char *why)
{
    return us_fail(
        US_EFOREIGN,
        "arena '%s', cache id %u: offset 0x%llx is no object: %s; expected the "
        "address that an allocation returned",
        s->arena->name, s->id, (unsigned long long)object, why);
}

us_err us_find_object(struct us_cache *s, uint64_t object, uint32_t *page, bool *shared)
{
    struct us_arena *a = s->arena;
    struct us_page *p;
    uint32_t order, index;
    uint16_t tag;

    if (object - a->data_start >= a->data_bytes) {
        return foreign(s, object, "it is outside the arena's pages");
    }
    *page = us_block_head(a, (uint32_t)(object >> US_PAGE_SHIFT));
    if (*page == 0 || us_block_state(a, *page, &order) != US_BLOCK_SLAB) {
        return foreign(s, object, "its page is no part of a slab");
    }
    p = a->pages + *page;
    if (us_load_relaxed32(&p->cache) != s->id) {
        return us_fail(
            US_EWRONGCACHE,
            "arena '%s': the object at offset 0x%llx is of cache id %u, not of "
            "cache id %u; free it through its own cache",
            a->name, (unsigned long long)object, us_load_relaxed32(&p->cache), s->id);
    }
    if (p->cache_gen != (uint16_t)s->generation) {
        us_err err = us_cache_alive(s);

        return err != US_OK ? err
                            : foreign(s, object, "its slab is of an earlier cache");
    }
    if (!us_object_index(s, *page, us_objects_here(s, *page, order), object, &index)) {
        return foreign(s, object, "it points into an object, or between two");
    }
    tag = us_tag_look(s, us_tag(s, object));
    if (US_UNLIKELY(tag == US_TAG_POISON ||
                    us_slab_read(us_slab_load(p)).mark == US_MARK_POISON)) {
        return us_fail(US_EPOISONED,
                       "arena '%s', cache id %u: the object at offset 0x%llx, or its "
                       "slab, contradicts itself and is out of use; leave it alone",
                       a->name, s->id, (unsigned long long)object);
    }
    *shared = tag == US_TAG_SHARED;
    if (*shared) {
        return us_hold_check(s->arena, s->tag_shift - 3, object);
    }
    if (tag == 0 || tag == (us_me(a) | US_TAG_FREEING)) {
        return us_fail(
            US_EDOUBLEFREE,
            "arena '%s', cache id %u: object %u of slab %u (offset 0x%llx) is "
            "already free%s; free each object once",
            a->name, s->id, index, p->serial, (unsigned long long)object,
            tag == 0 ? "" : ", or twice in this call");
    }
    if (tag != us_me(a)) {
        return us_fail(
            US_ENOTOWNER,
            "arena '%s', cache id %u: object %u of slab %u (offset 0x%llx) "
            "belongs to participant %d%s, this process is %d; it has to be adopted "
            "first",
            a->name, s->id, index, p->serial, (unsigned long long)object,
            (tag & US_TAG_OWNER) - 1, tag & US_TAG_MOVING ? " and is on the move" : "",
            us_me(a) - 1);
    }
    return US_OK;
}

/* ---- into any slab ---- */

/* A slab that was full has a free object again: it goes to this CPU's chain. */
static us_err put_on_chain(struct us_cache *s, struct us_thread *t,
                           struct us_kmem_cache_cpu *c, uint32_t page)
{
    uint32_t drained = 0;
    us_err err = us_put_cpu_partial_locked(s, c, page, true, &drained);

    if (drained != 0) {
        err = us_put_partials(s, t, c, drained);
        us_stat_add(c, US_STAT_CPU_PARTIAL_DRAIN, 1);
    }
    us_stat_add(c, US_STAT_CPU_PARTIAL_FREE, 1);
    return err;
}

/* The swap has happened under list_lock: put the slab where it belongs now. */
static us_err put_on_list(struct us_cache *s, struct us_thread *t,
                          struct us_kmem_cache_node *n, struct us_kmem_cache_cpu *c,
                          uint32_t page, bool was_full, bool empty, bool *discard)
{
    us_err err = US_OK;

    if (empty && us_load_relaxed32(&n->nr_partial) >=
                     us_load_relaxed32(&s->shared->min_partial)) {
        if (!was_full) {
            err = us_remove_partial(s, page);
            us_stat_add(c, US_STAT_FREE_REMOVE_PARTIAL, 1);
        }
        if (err == US_OK) {
            us_slab_unpublish(s, t, page);
            *discard = true;
        }
    } else if (was_full) {
        err = us_add_partial(s, page, true);
        us_stat_add(c, US_STAT_FREE_ADD_PARTIAL, 1);
    }
    return err;
}

/* What a free is about to do with the slab, and the lock it holds for it. */
enum hold { HOLD_NONE, HOLD_SLOT, HOLD_LIST, HOLD_STRAY };

/*
 * An unfrozen slab that was full goes to the chain of this CPU, or to its node's list;
 * one that is empty now may leave the list. Without either lock the first becomes a
 * stray and the second stays on the list.
 */
static enum hold take_hold(struct us_cache *s, struct us_thread *t,
                           struct us_kmem_cache_node *n, struct us_kmem_cache_cpu *c,
                           struct us_slab_word was, struct us_slab_word *word)
{
    bool was_full = was.freelist == 0;

    if (was.frozen || (!was_full && word->inuse != 0)) {
        return HOLD_NONE;
    }
    if (was_full && !(s->flags & US_NO_CPU_PARTIAL)) {
        us_err err = us_lock(s->arena, t, &c->lock);

        word->frozen = err == US_OK;
        if (err == US_OK) {
            return HOLD_SLOT;
        }
        if (err == US_EOWNERDEAD) {
            us_store_release32(&s->shared->suspect, 1);
        }
    }
    if (us_list_lock(s, t, n)) {
        return HOLD_LIST;
    }
    if (was_full) {
        word->frozen = true;
        word->mark = US_MARK_STRAY;
        return HOLD_STRAY;
    }
    return HOLD_NONE;
}

static void let_go(struct us_cache *s, struct us_thread *t,
                   struct us_kmem_cache_node *n, struct us_kmem_cache_cpu *c,
                   enum hold hold)
{
    if (hold == HOLD_SLOT) {
        us_unlock(t, &c->lock);
    } else if (hold == HOLD_LIST) {
        us_list_unlock(s, t, n);
    }
}

us_err us_slab_free(struct us_cache *s, struct us_thread *t, uint32_t cpu,
                    uint32_t page, uint64_t head, uint64_t tail, uint32_t count)
{
    struct us_page *p = s->arena->pages + page;
    struct us_kmem_cache_node *n = us_slab_node(s, page);
    struct us_kmem_cache_cpu *c = us_cpu(s, cpu);
    bool discard = false, done;
    us_err err = US_OK;

    us_stat_add(c, US_STAT_FREE_SLOWPATH, 1);
    do {
        struct us_pair old = us_slab_load(p);
        struct us_slab_word was = us_slab_read(old), word = was;
        enum hold hold;

        if (count > was.inuse) {
            us_store_release32(&s->shared->suspect, 1);
            return us_fail(US_ECORRUPT,
                           "arena '%s': the slab at page %u says that %u objects "
                           "are in use, %u are to be freed; it will be rebuilt",
                           s->arena->name, page, was.inuse, count);
        }
        us_link_set(s, tail, was.freelist);
        word.freelist = head;
        word.inuse = was.inuse - count;
        hold = take_hold(s, t, n, c, was, &word);
        done = us_slab_swap(p, old, word);
        if (done && hold == HOLD_STRAY) {
            us_store_release32(&n->strays, 1); /* while the intent names the slab */
        }
        if (done) {
            us_intent_end(t); /* before the lock goes: see told_apart() in mend.c */
        }
        if (!done) {
            us_stat_add(c, US_STAT_CMPXCHG_DOUBLE_FAIL, 1);
        } else if (hold == HOLD_SLOT) {
            err = put_on_chain(s, t, c, page);
        } else if (hold == HOLD_LIST) {
            err = put_on_list(s, t, n, c, page, was.freelist == 0, word.inuse == 0,
                              &discard);
        } else if (hold == HOLD_STRAY) {
            us_stray(s, t, page);
        } else if (was.frozen) {
            us_stat_add(c, US_STAT_FREE_FROZEN, 1);
            if (US_UNLIKELY(was.mark == US_MARK_STRAY)) {
                us_store_relaxed32(&n->stray, page); /* has a free object for sure */
            }
        }
        let_go(s, t, n, c, hold);
    } while (!done);
    if (discard) {
        us_stat_add(c, US_STAT_FREE_SLAB, 1);
        us_pages_free(s->arena, t, page);
    }
    return err;
}

static __attribute__((noinline)) us_err free_slow(struct us_cache *s,
                                                  struct us_thread *t, uint32_t cpu,
                                                  uint64_t object)
{
    bool shared, last;
    uint32_t page;
    us_err err = us_arena_sound(s->arena);

    if (US_UNLIKELY(us_load_relaxed32(&s->shared->suspect) != 0)) {
        us_reap_sometimes(s->arena);
    }
    err = err == US_OK ? us_find_object(s, object, &page, &shared) : err;

    if (err == US_OK && shared) {
        err = us_hold_drop(s->arena, t, object, &last);
        return err == US_OK && last ? us_free_one(s, t, cpu, object) : err;
    }
    if (err != US_OK) {
        return err;
    }
    us_store_relaxed32(&t->cache, s->id);
    us_store_relaxed32(&t->cpu, cpu);
    us_intent_begin(t, US_OP_FREE, object);
    us_tag_set(us_tag(s, object), 0);
    err = us_slab_free(s, t, cpu, page, object, object, 1);
    us_intent_end(t);
    return err;
}

/* ---- to the CPU's own slab ---- */

/*
 * An untagged object whose first swap failed. If the slab was taken from under us it is
 * a slab like any other now.
 */
static US_COLD us_err push_again(struct us_cache *s, struct us_thread *t, uint32_t cpu,
                                 uint64_t active, uint64_t object)
{
    struct us_kmem_cache_cpu *c = us_cpu(s, cpu);
    struct us_pair old, new;
    us_err err = US_OK;

    do {
        us_stat_add(c, US_STAT_CMPXCHG_DOUBLE_CPU_FAIL, 1);
        old.hi = us_load_acquire64(&c->freelist.hi);
        old.lo = us_load_acquire64(&c->freelist.lo);
        if (us_load_acquire64(&c->active) != active) {
            uint32_t page = us_active_read(active).page;

            us_store_relaxed32(&t->cache, s->id);
            us_store_relaxed32(&t->cpu, cpu);
            err = us_slab_at(s, page) == NULL
                      ? US_ECORRUPT
                      : us_slab_free(s, t, cpu, page, object, object, 1);
            us_intent_end(t);
            return err;
        }
        us_link_set(s, object, old.lo);
        new.lo = object;
        new.hi = us_next_tid(old.hi);
    } while (!us_cas_pair(&c->freelist, old, new));
    us_intent_end(t);
    us_stat_add(c, US_STAT_FREE_FASTPATH, 1);
    return US_OK;
}

/* The object is not of the CPU slab, or not ours: `miss` decides, with the same
 * arguments. */
typedef us_err (*free_fn)(struct us_cache *, struct us_thread *, uint32_t, uint64_t);

US_INLINE us_err push(struct us_cache *s, struct us_thread *t, uint32_t cpu,
                      uint64_t object, free_fn miss)
{
    struct us_kmem_cache_cpu *c = us_cpu(s, cpu);
    struct us_pair old, new;
    uint64_t active;
    uint16_t *tag;

    old.hi = us_load_acquire64(&c->freelist.hi);
    old.lo = us_load_acquire64(&c->freelist.lo);
    active = us_load_acquire64(&c->active);
    if (!us_active_holds(s, active, object) || !us_tid_ours(s, old.hi)) {
        return miss(s, t, cpu, object);
    }
    tag = us_tag(s, object);
    if (US_UNLIKELY(!us_tag_is(tag, us_load_relaxed16(&s->self->owner)))) {
        return miss(s, t, cpu, object);
    }
    us_intent_begin(t, US_OP_FREE, object);
    us_tag_set(tag, 0);
    us_link_set(s, object, old.lo);
    new.lo = object;
    new.hi = us_next_tid(old.hi);
    if (US_UNLIKELY(!us_cas_pair(&c->freelist, old, new))) {
        return push_again(s, t, cpu, active, object);
    }
    us_intent_end(t);
    us_stat_add(c, US_STAT_FREE_FASTPATH, 1);
    return US_OK;
}

us_err us_free_one(struct us_cache *s, struct us_thread *t, uint32_t cpu,
                   uint64_t object)
{
    return push(s, t, cpu, object, free_slow);
}

/* A thread's first call. */
static US_COLD us_err free_first(us_cache *s, void *object)
{
    return us_free_on(s, object, -1);
}

us_err us_free(us_cache *s, void *object)
{
    uint32_t cpu = us_cpu_quick();

    if (US_UNLIKELY(us_tls.id != us_self_id(s->self) || cpu >= s->cpu_count)) {
        return free_first(s, object);
    }
    return push(s, us_tls.thread, cpu, (uint64_t)((char *)object - s->base), free_slow);
}

us_err us_free_on(us_cache *s, void *object, int cpu)
{
    struct us_request r;
    us_err err = us_request_init(s, 0, cpu, -1, &r);

    return err != US_OK ? err : us_free_one(s, r.t, r.cpu, us_offset(s->arena, object));
}
