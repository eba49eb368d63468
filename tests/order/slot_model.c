/* SPDX-License-Identifier: MIT */
/*
 * slot_model.c - fast paths on a CPU slot from which somebody takes the slab.
 *
 * Engine: pop() of alloc.c, push() of free.c, us_cpu_detach() and us_cpu_install().
 * Two threads allocate, write and free; a third takes slab A away, installs B, takes B
 * away and installs A again. Every object stays in exactly one place, and whoever has
 * one saw all that its last owner did.
 */
#include "fast.h"

#define A WORLD_FIRST
#define B (WORLD_FIRST + 1)

static uint64_t taken[2]; /* chains that the third thread has in hand */

static void begin(void)
{
    world_begin();
    world_slab(A);
    world_slab(B);
    taken[0] = 0;
    taken[1] = world_chain(B);
    us_cpu_install(&world_cache[0], world_cpu(), A, WORLD_OBJECTS, world_chain(A));
    order_word(&world_cpu()->freelist, 16);
    order_word(&world_cpu()->active, 8);
    world_slab_words(A, 0);
    world_slab_words(B, WORLD_OBJECTS);
}

static void slow(void)
{
    struct us_cache *s = &world_cache[2];

    taken[0] = us_cpu_detach(world_cpu());
    us_cpu_install(s, world_cpu(), B, WORLD_OBJECTS, taken[1]);
    taken[1] = us_cpu_detach(world_cpu());
    us_cpu_install(s, world_cpu(), A, WORLD_OBJECTS, taken[0]);
    taken[0] = 0;
}

static void end(void)
{
    unsigned seen[2 * WORLD_OBJECTS] = {0};

    world_count(world_cpu()->freelist.lo, seen);
    for (unsigned i = 0; i < 2 * WORLD_OBJECTS; i++) {
        order_assert(seen[i] == 0 || i < WORLD_OBJECTS); /* of A, whose slot it is */
    }
    world_count(taken[1], seen);
    for (unsigned i = 0; i < 2; i++) {
        world_count(us_slab_read(us_slab_load(world_page(A + i))).freelist, seen);
    }
    for (unsigned i = 0; i < 2 * WORLD_OBJECTS; i++) {
        order_assert(seen[i] == 1);
    }
}

const struct order_model order_model = {
    .threads = 3,
    .iterations = 100000,
    .begin = begin,
    .thread = {one_at_a_time, two_at_a_time, slow},
    .end = end,
};
