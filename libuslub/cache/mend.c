/* SPDX-License-Identifier: MIT */
/*
 * mend.c - one cache after a death: freelists, lists, chains and counters are made anew
 * from the owner tags.
 *
 * With all its locks in one hand a cache is at rest but for single objects: an
 * allocation may have popped one and not tagged it yet, a free may have untagged one
 * and not pushed it yet. Both name it in their intent, and docs/design/05-recovery.md
 * says why reading the intents, the tags, the intents again and then the slab's word
 * tells those objects from the ones that the dead left.
 */
#include <stdlib.h>
#include <string.h>

#include "cache/names.h"

/* What is known of each object of the slab at hand. */
#define LISTED 1u /* was on a freelist that we have swapped away */
#define NAMED  2u /* a living thread is in the middle of it */
#define FREE   4u /* its tag says so */
#define MAYBE  8u /* NAMED, but perhaps it is the dead one's: ask again later */

/* What a CPU slot had when it was detached. */
struct detached {
    uint32_t page;
    uint64_t freelist;
};

struct mend {
    struct us_cache *s;
    struct us_thread *t;
    struct detached *cpus;
    uint8_t *objects;
    uint64_t slabs[US_NODES_MAX], total[US_NODES_MAX]; /* as counted */
    uint64_t had_slabs[US_NODES_MAX], had_total[US_NODES_MAX];
    uint32_t pile; /* slabs to be given back */
    bool in_doubt;
};

/* ---- all locks ---- */

static uint32_t *lock_word(const struct us_cache *s, uint32_t i)
{
    uint32_t cpus = s->arena->cpus;

    return i < cpus ? &us_cpu(s, i)->lock : &us_node(s, i - cpus)->list_lock;
}

static void unlock_all(struct us_cache *s, struct us_thread *t, uint32_t count)
{
    uint32_t cpus = s->arena->cpus;

    while (count-- > 0) {
        if (count < cpus) {
            us_unlock(t, lock_word(s, count));
        } else { /* and see to what became a stray meanwhile */
            us_list_unlock(s, t, us_node(s, count - cpus));
        }
    }
}

static bool lock_all(struct us_cache *s, struct us_thread *t)
{
    uint32_t count = s->arena->cpus + s->arena->nodes;

    for (uint32_t i = 0; i < count; i++) {
        if (us_lock_inherit(s->arena, t, lock_word(s, i)) != US_OK) {
            unlock_all(s, t, i);
            return false;
        }
    }
    return true;
}

bool us_cache_orphaned(const struct us_arena *a, uint32_t id)
{
    const struct us_kmem_cache *shared = us_cache_shared(a, id);
    const struct us_kmem_cache_cpu *c = (const void *)(shared + 1);
    const struct us_kmem_cache_node *n = (const void *)(c + a->cpus);

    for (uint32_t i = 0; i < a->cpus + a->nodes; i++) {
        uint32_t holder = us_lock_holder(
            us_load_relaxed32(i < a->cpus ? &c[i].lock : &n[i - a->cpus].list_lock));

        if (holder != 0 && us_thread_dead(a, holder - 1)) {
            return true;
        }
    }
    return false;
}

/* ---- what the living are doing ---- */

/*
 * A free that names its object and has, or waits for, a lock has not pushed the object
 * yet: we hold all locks that it could have. So the object is its own for certain.
 */
static uint8_t told_apart(const struct us_thread *t, uint64_t intent)
{
    bool waits = intent >> US_OP_SHIFT == US_OP_FREE &&
                 us_load_acquire32(&t->locks) != 0 &&
                 us_load_acquire64(&t->intent) == intent;

    return waits ? NAMED : NAMED | MAYBE;
}

static void read_intents(struct mend *m, uint32_t page, uint32_t objects)
{
    const struct us_arena *a = m->s->arena;
    uint32_t high = us_load_acquire32(&a->header->thread_high);

    for (uint32_t slot = 0; slot < high && slot < US_THREADS; slot++) {
        const struct us_thread *t = us_thread_at(a, slot);
        uint64_t intent = us_load_acquire64(&t->intent);
        uint64_t op = intent >> US_OP_SHIFT;
        uint64_t place = (intent & US_OFFSET_MASK) - us_page_offset(page);
        bool bulk = op == US_OP_ALLOC_BULK || op == US_OP_FREE_BULK;

        if ((op != US_OP_ALLOC && op != US_OP_FREE && !bulk) ||
            place / m->s->size >= objects || t == m->t || us_thread_dead(a, slot)) {
            continue;
        }
        for (uint32_t i = 0; bulk && i < objects; i++) {
            m->objects[i] |= NAMED | MAYBE;
        }
        m->objects[place / m->s->size] |= told_apart(t, intent);
    }
}

/* ---- one slab ---- */

static void see_list(struct mend *m, uint32_t page, uint32_t objects, uint64_t object)
{
    uint32_t index;

    while (us_object_index(m->s, page, objects, object, &index) &&
           !(m->objects[index] & LISTED)) {
        m->objects[index] |= LISTED;
        object = us_link_get(m->s, object);
    }
}

/* No participant can have such a tag: nobody will ever have the object again. */
static bool plausible(uint16_t tag)
{
    uint16_t owner = tag & US_TAG_OWNER;

    return tag == US_TAG_SHARED || tag == US_TAG_POISON ||
           (owner != 0 && owner <= US_PROCESSES && !(tag & US_TAG_SHARED));
}

static void read_tags(struct mend *m, uint32_t page, uint32_t objects)
{
    for (uint32_t i = 0; i < objects; i++) {
        uint16_t *at = us_tag(m->s, us_object_offset(m->s, page, i));
        uint16_t tag = us_load_acquire16(at);

        if (tag == 0) {
            m->objects[i] |= FREE;
        } else if (!plausible(tag) && us_cas_acq_rel16(at, &tag, US_TAG_POISON)) {
            us_fetch_add_relaxed32(&m->s->arena->header->poisoned_objects, 1);
        }
    }
}

/* Links what is free; the chain and its length. */
static uint64_t link_free(struct mend *m, uint32_t page, uint32_t objects,
                          uint32_t *count, bool *maybe)
{
    uint64_t first = 0, last = 0;

    *count = 0;
    *maybe = false;
    for (uint32_t i = 0; i < objects; i++) {
        uint64_t object = us_object_offset(m->s, page, i);
        uint8_t known = m->objects[i];

        if (!(known & FREE)) {
            continue;
        }
        if ((known & NAMED) && !(known & LISTED)) {
            *maybe = *maybe || (known & MAYBE);
            continue;
        }
        if (last == 0) {
            first = object;
        } else {
            us_link_set(m->s, last, object);
        }
        last = object;
        ++*count;
    }
    if (last != 0) {
        us_link_set(m->s, last, 0);
    }
    return first;
}

/* False: somebody freed into the slab meanwhile. */
static bool mend_once(struct mend *m, uint32_t page, uint32_t objects,
                      struct us_slab_word *ret)
{
    struct us_page *p = m->s->arena->pages + page;
    struct us_pair old = us_slab_load(p), taken;
    struct us_slab_word word = us_slab_read(old);
    uint32_t count;
    bool maybe;

    see_list(m, page, objects, word.freelist);
    word = (struct us_slab_word){.inuse = objects, .objects = objects, .frozen = true};
    taken = us_slab_pack(old, word);
    if (!us_cas_pair(&p->slab, old, taken)) {
        return false;
    }
    for (uint32_t i = 0; i < objects; i++) {
        m->objects[i] &= LISTED;
    }
    read_intents(m, page, objects);
    read_tags(m, page, objects);
    read_intents(m, page, objects);
    word.freelist = link_free(m, page, objects, &count, &maybe);
    word.inuse = objects - count;
    word.frozen = false;
    if (!us_cas_pair(&p->slab, taken, us_slab_pack(taken, word))) {
        return false;
    }
    m->in_doubt = m->in_doubt || maybe;
    *ret = word;
    return true;
}

static void poison_slab(struct mend *m, uint32_t page)
{
    struct us_page *p = m->s->arena->pages + page;
    struct us_pair old;
    struct us_slab_word word;

    do {
        old = us_slab_load(p);
        word = us_slab_read(old);
        word.frozen = true;
        word.mark = US_MARK_POISON;
    } while (!us_slab_swap(p, old, word));
    us_fetch_add_relaxed32(&m->s->arena->header->poisoned_slabs, 1);
}

static void forget_links(struct us_page *p)
{
    us_store_relaxed32(&p->next, 0);
    us_store_relaxed32(&p->prev, 0);
    us_store_relaxed32(&p->chain_next, 0);
    us_store_relaxed32(&p->chain_count, 0);
    us_store_relaxed16(&p->flags,
                       us_load_relaxed16(&p->flags) & (uint16_t)~US_PAGE_PARTIAL);
}

/* Every free into the slab makes it begin again, and no more than that. */
static void mend_slab(struct mend *m, uint32_t page, uint32_t order)
{
    struct us_cache *s = m->s;
    struct us_kmem_cache_node *n = us_slab_node(s, page);
    uint32_t objects = us_objects_of_order(s, order), tries = 0;
    struct us_slab_word word;

    forget_links(s->arena->pages + page);
    if (us_slab_read(us_slab_load(s->arena->pages + page)).mark == US_MARK_POISON) {
        return;
    }
    if (objects == 0) {
        poison_slab(m, page);
        return;
    }
    memset(m->objects, 0, objects);
    for (uint32_t cpu = 0; cpu < s->arena->cpus; cpu++) {
        if (m->cpus[cpu].page == page) {
            see_list(m, page, objects, m->cpus[cpu].freelist);
        }
    }
    while (!mend_once(m, page, objects, &word)) {
        if (tries++ > 2 * US_OBJECTS_MAX) {
            poison_slab(m, page); /* no honest process frees so often */
            return;
        }
    }
    us_fetch_add_relaxed64(&s->arena->header->mended_slabs, 1);
    if (word.inuse == 0 && us_load_relaxed32(&n->nr_partial) >=
                               us_load_relaxed32(&s->shared->min_partial)) {
        us_slab_unpublish(s, m->t, page);
        us_store_relaxed32(&s->arena->pages[page].chain_next, m->pile);
        m->pile = page;
    } else if (word.freelist != 0) {
        (void)us_add_partial(s, page, true);
    }
}

/* ---- the cache ---- */

/* A slab that is being published without a lock may or may not be counted yet. */
static bool somebody_publishes(const struct mend *m)
{
    const struct us_arena *a = m->s->arena;
    uint32_t high = us_load_acquire32(&a->header->thread_high);

    for (uint32_t slot = 0; slot < high && slot < US_THREADS; slot++) {
        const struct us_thread *t = us_thread_at(a, slot);
        uint64_t intent = us_load_acquire64(&t->intent);

        if (intent >> US_OP_SHIFT == US_OP_ALLOC_SLOW &&
            (intent & US_OFFSET_MASK) != 0 &&
            us_load_relaxed32(&t->cache) == m->s->id && !us_thread_dead(a, slot)) {
            return true;
        }
    }
    return false;
}

static void take_apart(struct mend *m)
{
    struct us_cache *s = m->s;

    for (uint32_t cpu = 0; cpu < s->arena->cpus; cpu++) {
        struct us_kmem_cache_cpu *c = us_cpu(s, cpu);

        m->cpus[cpu].page = us_active_read(us_load_acquire64(&c->active)).page;
        m->cpus[cpu].freelist = us_cpu_detach(c);
        us_store_release32(&c->partial, 0);
    }
    for (uint32_t node = 0; node < s->arena->nodes; node++) {
        struct us_kmem_cache_node *n = us_node(s, node);

        us_store_relaxed32(&n->head, 0);
        us_store_relaxed32(&n->tail, 0);
        us_store_relaxed32(&n->nr_partial, 0);
        us_store_release32(&n->strays, 0);
        m->had_slabs[node] = us_load_acquire64(&n->nr_slabs);
        m->had_total[node] = us_load_acquire64(&n->total_objects);
    }
}

static void put_together(struct mend *m)
{
    const struct us_arena *a = m->s->arena;
    enum us_block_state state;
    uint32_t order;

    for (uint32_t page = a->first_page; page < a->end_page;
         page += us_block_step(a, state, order)) {
        const struct us_page *p = us_page_at(a, page);
        uint32_t node = us_page_node(a, page);

        state = us_block_state(a, page, &order);
        if (state == US_BLOCK_SLAB && 1ULL << order <= a->end_page - page &&
            us_load_relaxed32(&p->cache) == m->s->id &&
            us_load_relaxed16(&p->cache_gen) == (uint16_t)m->s->generation) {
            m->slabs[node]++;
            m->total[node] += us_objects_of_order(m->s, order);
            mend_slab(m, page, order);
        }
    }
}

/* The difference, since a slab that needs no lock to be published may be counted now.
 */
static void set_counters(struct mend *m)
{
    for (uint32_t node = 0; node < m->s->arena->nodes; node++) {
        struct us_kmem_cache_node *n = us_node(m->s, node);

        us_fetch_add_acq_rel64(&n->nr_slabs, m->slabs[node] - m->had_slabs[node]);
        us_fetch_add_acq_rel64(&n->total_objects, m->total[node] - m->had_total[node]);
    }
}

/*
 * A slab that is published meanwhile may or may not be met on the way. Its number comes
 * before it is counted, and it is counted before it can be met.
 */
static void rebuild(struct mend *m)
{
    uint32_t serials = us_load_acquire32(&m->s->shared->serials);
    bool publishing = somebody_publishes(m);

    take_apart(m);
    put_together(m);
    if (publishing || somebody_publishes(m) ||
        us_load_acquire32(&m->s->shared->serials) != serials) {
        m->in_doubt = true;
    }
    set_counters(m);
}

static enum us_mended mend_locked(struct mend *m)
{
    struct us_header *h = m->s->arena->header;

    m->cpus = calloc(m->s->arena->cpus, sizeof(*m->cpus));
    m->objects = malloc(m->s->objects);
    if (m->cpus == NULL || m->objects == NULL) {
        return US_MENDED_NOT;
    }
    us_store_release32(&m->s->shared->suspect, 0);
    rebuild(m);
    if (m->in_doubt) {
        us_store_release32(&m->s->shared->suspect, 1);
    }
    us_fetch_add_relaxed64(&h->mended_caches, 1);
    return m->in_doubt ? US_MENDED_IN_DOUBT : US_MENDED;
}

enum us_mended us_mend_cache(struct us_arena *a, struct us_thread *t, uint32_t id)
{
    struct mend m = {.s = us_cache_handle(a, id), .t = t};
    enum us_mended mended = US_MENDED;

    if (m.s == NULL) { /* what it is cannot be known: its users are told so */
        return us_last_code() == US_ENOMEM ? US_MENDED_NOT : US_MENDED;
    }
    us_store_relaxed32(&t->cache, id);
    us_intent_begin(t, US_OP_MEND, 0);
    if (!lock_all(m.s, t)) {
        us_intent_end(t);
        return US_MENDED_NOT;
    }
    if (us_cache_usable(m.s) == US_OK) {
        mended = mend_locked(&m);
    }
    unlock_all(m.s, t, a->cpus + a->nodes);
    (void)us_free_pile(m.s, t, m.pile);
    us_intent_end(t);
    free(m.cpus);
    free(m.objects);
    return mended;
}
