/* SPDX-License-Identifier: MIT */
/*
 * pair_model.c - two threads on the freelist of one slot: the first object comes back
 * while somebody is about to take it.
 *
 * Engine: pop() of alloc.c, push() of free.c. Smaller than slot_model.c, and so sees
 * what is rare there: a link that is older than the freelist that leads to it.
 */
#include "fast.h"

static void begin(void)
{
    world_begin();
    world_slab(WORLD_FIRST);
    us_cpu_install(&world_cache[0], world_cpu(), WORLD_FIRST, WORLD_OBJECTS,
                   world_chain(WORLD_FIRST));
    order_word(&world_cpu()->freelist, 16);
    world_slab_words(WORLD_FIRST, 0);
}

static void end(void)
{
    unsigned seen[2 * WORLD_OBJECTS] = {0};

    world_count(world_cpu()->freelist.lo, seen);
    for (unsigned i = 0; i < WORLD_OBJECTS; i++) {
        order_assert(seen[i] == 1);
    }
}

const struct order_model order_model = {
    .threads = 2,
    .iterations = 100000,
    .begin = begin,
    .thread = {one_at_a_time, two_at_a_time},
    .end = end,
};
