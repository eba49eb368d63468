/* SPDX-License-Identifier: MIT */
/*
 * uncommit_model.c - a page is given back while somebody may still read a link in it.
 *
 * Engine: pop() of alloc.c, us_cpu_detach(), us_uncommit() of commit.c. The
 * membarrier() of the one and the compiler barrier of the other are modelled as a full
 * fence each, which is what the kernel promises of such a pair.
 */
#include "world.h"

#include <errno.h>
#include <fcntl.h>

#include "cache/alloc.c"
#include "cache/cpu.c"

static bool hole;

static int punch_hole(void);
#define fallocate(...) punch_hole()
#include "arena/commit.c"

#define A WORLD_FIRST

static int punch_hole(void)
{
    hole = true;
    return 0;
}

/* The bits do not matter here, and are no words: what matters is the hole. */
void order_speculated(const void *p)
{
    (void)p;
    order_assert(!hole); /* it would be a SIGBUS */
}

bool us_fence_everywhere(void)
{
    us_compiler_barrier(); /* the other half, see builtins.h */
    return true;
}

us_err us_limit_ask(const struct us_arena *a, uint64_t bytes)
{
    (void)a;
    (void)bytes;
    return US_OK;
}

static void begin(void)
{
    world_begin();
    hole = false;
    world_slab(A);
    us_cpu_install(&world_cache[0], world_cpu(), A, WORLD_OBJECTS, world_chain(A));
    order_word(&world_cpu()->freelist, 16);
    order_word(&world_cpu()->active, 8);
    order_word(us_tag(&world_cache[0], world_object(A, 0)), 2);
    for (uint32_t i = 0; i < WORLD_OBJECTS; i++) {
        order_word(world.bytes + world_object(A, i), 8);
    }
    order_word(&world_thread(0)->intent, 8);
}

static void reader(void)
{
    (void)pop(&world_cache[0], world_thread(0), world_cpu(), -1);
}

/* All objects are free and nobody's: the slab goes, and its page. */
static void giver(void)
{
    uint64_t chain = us_cpu_detach(world_cpu());

    if (chain == world_object(A, 0)) {
        us_uncommit(&world_arena[1], us_page_offset(A), US_PAGE_SIZE);
    }
}

static void end(void)
{
}

const struct order_model order_model = {
    .threads = 2,
    .iterations = 100000,
    .fences = true,
    .begin = begin,
    .thread = {reader, giver},
    .end = end,
};
