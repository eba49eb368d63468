/* SPDX-License-Identifier: MIT */
/*
 * buddy_model.c - two threads split and merge one block of pages: in the end it is
 * whole again, and the index leads to it.
 *
 * What keeps two freers from each seeing the other half busy is that both change the
 * same word of the bitmap between freeing their half and looking at the other.
 */
#include "buddy.h"

static void use(void)
{
    buddy_use(0);
    buddy_use((uint32_t)order_thread());
}

static void end(void)
{
    buddy_check();
    order_assert(buddy_bits(ORDERS - 1) & 1);
}

const struct order_model order_model = {
    .threads = 2,
    .iterations = 40000,
    .begin = buddy_begin,
    .thread = {use, use},
    .end = end,
};
