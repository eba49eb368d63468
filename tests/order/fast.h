/* SPDX-License-Identifier: MIT */
/*
 * fast.h - threads on the fast paths of one CPU slot: allocate, write, free.
 *
 * Engine: pop() of alloc.c and push() of free.c; what pop() gives is what a caller
 * gets.
 */
#ifndef FAST_H
#define FAST_H

#include "world.h"

#include "cache/alloc.c"
#include "cache/cpu.c"
#include "cache/free.c"
#include "slab/slab.c"

/* Slabs are of one page here. */
uint32_t us_block_head(const struct us_arena *a, uint32_t page)
{
    return us_page_valid(a, page) ? page : 0;
}

static uint64_t take_one(void)
{
    int me = order_thread();
    uint64_t object = pop(&world_cache[me], world_thread(me), world_cpu(), -1);

    order_assert(object != POP_BAD);
    if (object > POP_BAD) {
        order_touch(world_payload(object));
    } else {
        us_intent_end(world_thread(me)); /* as the slow path does at once */
    }
    return object;
}

static void give(uint64_t object)
{
    int me = order_thread();

    if (object > POP_BAD) {
        order_touch(world_payload(object));
        order_assert(us_free_one(&world_cache[me], world_thread(me), 0, object) ==
                     US_OK);
    }
}

static void one_at_a_time(void)
{
    give(take_one());
    give(take_one());
}

/* The first of two comes back, the second stays away: what a tid is for. */
static void two_at_a_time(void)
{
    uint64_t first = take_one(), second = take_one();

    give(first);
    give(second);
}

#endif
