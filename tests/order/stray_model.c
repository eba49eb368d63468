/* SPDX-License-Identifier: MIT */
/*
 * stray_model.c - two slabs become strays while somebody holds the list lock: each is
 * on the list in the end, whoever sees to it.
 *
 * Engine: us_stray(), us_settle_strays() and us_pop_stray() of stray.c, mark_stray() of
 * cpu.c, lock_all() and unlock_all() of mend.c, us_list_lock(), us_list_unlock(),
 * us_stray() and list_strays() of node.c, the lock of lock.c. Dekker's pair: the marker
 * stores and looks at the lock, the holder lets go of the lock and looks at what was
 * stored.
 */
#include "world.h"

#include "arena/lock.c"
#include "cache/alloc.c"
#include "cache/cpu.c"
#include "cache/mend.c"
#include "cache/node.c"
#include "cache/stray.c"
#include "slab/slab.c"

static uint32_t popped;

static void begin(void)
{
    world_begin();
    popped = 0;
    for (uint32_t i = 0; i < 2; i++) {
        struct us_slab_word word = {.freelist = world_object(WORLD_FIRST + i, 0),
                                    .inuse = 1,
                                    .objects = WORLD_OBJECTS,
                                    .frozen = true};
        struct us_page *p = world_page(WORLD_FIRST + i);

        world_slab(WORLD_FIRST + i);
        p->slab = us_slab_pack(p->slab, word);
        order_word(&p->slab, 16);
        order_word(us_tag(&world_cache[0], word.freelist), 2);
        order_word(world.bytes + word.freelist, 8);
        order_payload(i * WORLD_OBJECTS);
        order_word(&p->flags, 2);
        order_word(&p->next, 4);
        order_word(&p->prev, 4);
    }
    order_word(&world_node()->list_lock, 4);
    order_word(&world_node()->strays, 4);
    order_word(&world_node()->stray, 4);
    order_word(&world_node()->head, 4);
    order_word(&world_node()->tail, 4);
    order_word(&world_node()->nr_partial, 4);
}

/* A reaper, or anybody. */
static void holder(void)
{
    struct us_thread *t = world_thread(0);

    for (int i = 0; i < 2; i++) {
        if (order_random(2)) {
            if (lock_all(&world_cache[0], t)) {
                unlock_all(&world_cache[0], t, 2);
            }
        } else if (us_list_lock(&world_cache[0], t, world_node())) {
            us_list_unlock(&world_cache[0], t, world_node());
        }
    }
}

/* Marks its slab; one of the two then takes an object off a stray. */
static void marker(void)
{
    int me = order_thread();
    struct us_request r = {
        .s = &world_cache[me], .t = world_thread(me), .c = world_cpu(), .node = -1};
    uint64_t object;

    mark_stray(&world_cache[me], world_thread(me), WORLD_FIRST + (uint32_t)me - 1);
    if (me == 2 && us_pop_stray(&r, world_node(), &object) == US_OK) {
        order_touch(world_payload(object));
        popped++;
    }
}

/* A slab without a free object is on no list. */
static void end(void)
{
    uint32_t listed = 0, with_free = 0;

    for (uint32_t i = 0; i < 2; i++) {
        struct us_slab_word word =
            us_slab_read(us_slab_load(world_page(WORLD_FIRST + i)));

        order_assert(word.mark == 0);
        with_free += word.freelist != 0;
    }
    for (uint32_t at = world_node()->head; at != 0; at = world_page(at)->next) {
        order_assert(listed < 2);
        listed++;
    }
    order_assert(listed == with_free && world_node()->nr_partial == listed);
    order_assert(popped == 2 - with_free);
}

const struct order_model order_model = {
    .threads = 3,
    .iterations = 100000,
    .begin = begin,
    .thread = {holder, marker, marker},
    .end = end,
};
