/* SPDX-License-Identifier: MIT */
/*
 * lock_model.c - three threads and one lock: one at a time, each sees what the last one
 * did, and nobody sleeps for ever.
 *
 * Engine: us_lock() and us_unlock() of lock.c. A futex sleep never ends by itself here:
 * in the engine a lost wake-up would be a delay, here it is a deadlock. Whoever gives
 * up gives up.
 */
#include "world.h"

#include "arena/lock.c"

static uint32_t word;

static void begin(void)
{
    world_begin();
    word = 0;
    order_word(&word, 4);
    order_payload(0);
}

static void user(void)
{
    int me = order_thread();
    struct us_thread *t = world_thread(me);

    for (int i = 0; i < 2; i++) {
        if (us_lock(&world_arena[me], t, &word) == US_OK) {
            order_touch(0);
            us_unlock(t, &word);
        }
    }
}

static void end(void)
{
    order_assert((word & ~WAITERS) == 0);
}

const struct order_model order_model = {
    .threads = 3,
    .iterations = 50000,
    .begin = begin,
    .thread = {user, user, user},
    .end = end,
};
