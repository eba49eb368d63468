/* SPDX-License-Identifier: MIT */
/*
 * census_model.c - free pages are counted again while somebody allocates and frees: the
 * difference that is added is right, or nothing is added.
 *
 * Engine: count_node() of arena/mend.c beside pages.c. The counter is off at first, as
 * after a death.
 */
#include "buddy.h"

#include "arena/lock.c"
#include "arena/mend.c"

static void begin(void)
{
    buddy_begin();
}

static void use(void)
{
    buddy_use(order_random(2) ? ORDERS - 1 : 0); /* whole, or split and merged */
}

static void count(void)
{
    uint64_t kept = 0;

    (void)count_node(&world_arena[1], world_thread(1), 0, &kept);
}

static void end(void)
{
    buddy_check();
}

const struct order_model order_model = {
    .threads = 2,
    .iterations = 100000,
    .begin = begin,
    .thread = {use, count},
    .end = end,
};
