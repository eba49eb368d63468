/* SPDX-License-Identifier: MIT */
/*
 * channel_model.c - two senders, one cell, one receiver who sleeps: every message comes
 * once, in the order of its sender, and nobody sleeps for ever.
 *
 * Engine: put(), take(), wait_for(), wake() and sleep_on() of channel.c. A sleep never
 * ends by itself here: in the engine a lost wake-up costs 20 ms.
 */
#include "world.h"

#include "share/channel.c"

#define CAPACITY 1
#define MESSAGES 3 /* 0 and 1 of one sender, 2 of the other */

static struct us_channel_block *block(void)
{
    return WORLD_AT(WORLD_FIRST);
}

static struct us_channel handle[ORDER_THREADS];

static void begin(void)
{
    struct us_channel_block *b = block();

    world_begin();
    us_tls.id = 1;
    us_tls.thread = world_thread(0);
    b->capacity = CAPACITY;
    for (uint32_t i = 0; i < CAPACITY; i++) {
        b->cells[i].hi = i;
        order_word(&b->cells[i], 16);
    }
    order_word(&b->head, 8);
    order_word(&b->tail, 8);
    order_word(&b->readable, 4);
    order_word(&b->writable, 4);
    for (unsigned i = 0; i < MESSAGES; i++) {
        order_payload(i);
    }
    for (int i = 0; i < ORDER_THREADS; i++) {
        handle[i] = (struct us_channel){
            .arena = &world_arena[i], .block = b, .capacity = CAPACITY};
    }
}

/* send_once() and receive_once() without objects. */
static us_err send_one(us_channel *ch, struct us_thread *t, void *arg)
{
    struct us_pair cell = {.lo = *(uint64_t *)arg + 1, .hi = US_CELL_FULL};
    us_err err = is_full(ch) ? US_ETIMEDOUT : put(ch, cell);

    (void)t;
    if (err == US_OK) {
        wake(&ch->block->readable, 1);
    }
    return err;
}

static us_err receive_one(us_channel *ch, struct us_thread *t, void *arg)
{
    struct us_pair cell;
    us_err err = take(ch, t, &cell);

    if (err == US_OK) {
        *(uint64_t *)arg = cell.lo - 1;
        wake(&ch->block->writable, 1);
    }
    return err;
}

static void send(uint64_t message)
{
    us_channel *ch = &handle[order_thread()];
    struct attempt what = {send_one, &message, &ch->block->writable};

    order_touch((unsigned)message);
    order_assert(wait_for(ch, &what, -1) == US_OK);
}

static void sender_of_two(void)
{
    send(0);
    send(1);
}

static void sender_of_one(void)
{
    send(2);
}

static void receiver(void)
{
    us_channel *ch = &handle[order_thread()];
    bool got[MESSAGES] = {false};

    for (int i = 0; i < MESSAGES; i++) {
        uint64_t message = MESSAGES;
        struct attempt what = {receive_one, &message, &ch->block->readable};

        order_assert(wait_for(ch, &what, -1) == US_OK);
        order_assert(message < MESSAGES && !got[message]);
        order_assert(message != 1 || got[0]);
        got[message] = true;
        order_touch((unsigned)message);
    }
}

static void end(void)
{
}

const struct order_model order_model = {
    .threads = 3,
    .iterations = 100000,
    .begin = begin,
    .thread = {sender_of_two, sender_of_one, receiver},
    .end = end,
};
