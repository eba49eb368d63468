/* SPDX-License-Identifier: MIT */
/*
 * mend_model.c - a thread dies in the middle of an allocation or a free, and a reaper
 * makes the cache anew while another thread allocates and frees: nothing is lost,
 * nothing is there twice.
 *
 * Engine: us_mend_cache() of cache/mend.c beside the fast and slow paths. What is left
 * in doubt is mended again when the living are at rest, as the engine would in time.
 * That somebody is dead is known from the kernel, so all of his stores are visible
 * then.
 */
#include "fast.h"

#include "arena/lock.c"
#include "cache/mend.c"
#include "cache/node.c"
#include "cache/stray.c"

#define VICTIM 0
#define STEPS  40

struct us_cache *us_cache_handle(struct us_arena *a, uint32_t id)
{
    (void)id;
    return &world_cache[a - world_arena];
}

us_err us_cache_usable(const struct us_cache *s)
{
    (void)s;
    return US_OK;
}

void us_reap_sometimes(struct us_arena *a)
{
    (void)a;
}

void us_reap_soon(struct us_arena *a)
{
    (void)a;
}

static void begin(void)
{
    struct us_kmem_cache_node *n = world_node();
    struct us_page *p;

    world_begin();
    world_slab(WORLD_FIRST);
    us_cpu_install(&world_cache[0], world_cpu(), WORLD_FIRST, WORLD_OBJECTS,
                   world_chain(WORLD_FIRST));
    p = world_page(WORLD_FIRST);
    n->nr_slabs = 1;
    n->total_objects = WORLD_OBJECTS;
    order_word(&world_cpu()->freelist, 16);
    order_word(&world_cpu()->active, 8);
    order_word(&world_cpu()->lock, 4);
    order_word(&world_cpu()->partial, 4);
    order_word(&n->list_lock, 4);
    order_word(&n->strays, 4);
    order_word(&n->head, 4);
    order_word(&n->tail, 4);
    order_word(&n->nr_partial, 4);
    order_word(&p->flags, 2);
    order_word(&p->chain_next, 4);
    order_word(&p->chain_count, 4);
    for (int i = 0; i < ORDER_THREADS; i++) {
        order_word(&world_thread(i)->intent, 8);
        order_word(&world_thread(i)->locks, 4);
    }
    world_slab_words(WORLD_FIRST, 0);
}

static void body(void)
{
    order_mortal(STEPS);
    one_at_a_time();
}

static void victim(void)
{
    (void)order_die(body);
}

static void living(void)
{
    give(take_one());
}

static void reaper(void)
{
    order_await(VICTIM);
    world_dead = 1u << VICTIM;
    if (us_mend_cache(&world_arena[2], world_thread(2), 1) != US_MENDED) {
        us_store_release32(&world_cache[2].shared->suspect, 1);
    }
}

static void end(void)
{
    unsigned seen[2 * WORLD_OBJECTS] = {0};
    struct us_page *p = world_page(WORLD_FIRST);

    if (world_cache[2].shared->suspect) {
        order_assert(us_mend_cache(&world_arena[2], world_thread(2), 1) == US_MENDED);
    }
    world_count(world_cpu()->freelist.lo, seen);
    world_count(us_slab_read(us_slab_load(p)).freelist, seen);
    for (uint32_t i = 0; i < WORLD_OBJECTS; i++) {
        uint16_t tag = *us_tag(&world_cache[0], world_object(WORLD_FIRST, i));

        order_assert(tag == 0 || tag == VICTIM + 1); /* which is for the sweep */
        order_assert(seen[i] == (tag == 0));
    }
    if (world_cpu()->active == 0) {
        struct us_slab_word word = us_slab_read(us_slab_load(p));

        order_assert(word.objects - word.inuse == seen[0] + seen[1]);
        order_assert(word.mark == 0);
        order_assert(word.frozen || word.freelist == 0 || world_node()->head != 0);
    }
}

const struct order_model order_model = {
    .threads = 3,
    .iterations = 200000,
    .timed = true,
    .begin = begin,
    .thread = {victim, living, reaper},
    .end = end,
};
