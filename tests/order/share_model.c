/* SPDX-License-Identifier: MIT */
/*
 * share_model.c - an object is shared, sent, received twice by the same ticket, and
 * dropped by all: one of them, and only one, is the last, and may write to it again.
 *
 * Engine: us_hold_share(), _send(), _take(), _join(), _remove() of hold.c;
 * fill_record() and punch() of ticket.c. The ticket travels through a pipe, which
 * orders what it carries like a release and an acquire.
 */
#include "world.h"

#include "cache/hold.c"
#include "share/ticket.c"

static uint32_t pipe_word;
static struct us_ticket ticket;
static unsigned lasts;

us_err us_commit(struct us_arena *a, uint64_t offset, uint64_t bytes)
{
    (void)a;
    (void)offset;
    (void)bytes;
    return US_OK;
}

static struct us_spot spot_of(int me)
{
    uint64_t object = world_object(WORLD_FIRST, 0);
    struct us_cache *s = &world_cache[me];

    return (struct us_spot){
        .offset = object,
        .tag = us_tag(s, object),
        .holders = us_holders_at(&world_arena[me], s->tag_shift - 3, object),
        .cache = s,
        .page = WORLD_FIRST,
        .plane = s->tag_shift - 3,
        .usable = WORLD_SIZE,
    };
}

static void begin(void)
{
    struct us_spot spot;

    world_begin();
    pipe_word = 0;
    lasts = 0;
    for (int i = 0; i < ORDER_THREADS; i++) {
        world_arena[i].at.outboxes = us_page_offset(7) + 2048;
        world_arena[i].outbox_next = 0;
        if (world_arena[i].extra.entries != NULL) {
            memset(world_arena[i].extra.entries, 0,
                   world_arena[i].extra.room * sizeof(struct us_ref));
            world_arena[i].extra.used = 0;
        } else {
            us_hold_prepare(&world_arena[i]);
        }
    }
    spot = spot_of(0);
    *spot.tag = us_me(&world_arena[0]);
    order_word(spot.tag, 2);
    order_word(spot.holders, 16);
    order_word(us_outbox_record(&world_arena[0], 0, 0), 16);
    order_word(&pipe_word, 4);
    order_payload(0);
}

static void drop(int me)
{
    struct us_spot spot = spot_of(me);
    bool last;

    order_assert(us_hold_remove(&world_arena[me], &spot,
                                us_holder_bit(&world_arena[me]), 0, &last) == US_OK);
    if (last) {
        order_touch(0); /* ours alone again */
        lasts++;
    }
}

static void owner(void)
{
    struct us_arena *a = &world_arena[0];
    struct us_spot spot = spot_of(0);
    struct us_holders holders;

    order_touch(0);
    order_assert(us_hold_share(a, &spot) == US_OK);
    order_assert(us_hold_send(a, &spot, false, &holders) == US_OK);
    ticket.offset = spot.offset;
    ticket.incarnation = us_spot_incarnation(&spot, holders);
    ticket.record = 0;
    ticket.serial = fill_record(a, 0, spot.offset);
    us_store_release32(&pipe_word, 1);
    order_look(0);
    drop(0);
}

/* The same ticket is shown twice: whoever comes late can join those who hold it. */
static void receiver(void)
{
    int me = order_thread();
    struct us_arena *a = &world_arena[me];
    struct us_spot spot = spot_of(me);
    us_err err;

    if (us_load_acquire32(&pipe_word) == 0) {
        return;
    }
    if (punch(a, &ticket)) {
        err = us_hold_take(a, &spot);
        order_assert(err == US_OK);
    } else {
        err = us_hold_join(a, &spot, ticket.incarnation);
    }
    if (err == US_OK) {
        order_look(0);
        drop(me);
    }
}

static void end(void)
{
    struct us_spot spot = spot_of(0);
    bool sent = us_outbox_record(&world_arena[0], 0, 0)->lo != 0;
    struct us_holders h = us_holders_read(us_spot_pair(&world_arena[0], &spot));

    order_assert(h.processes == 0 && h.transits == sent);
    order_assert(lasts == !sent);
    order_assert(sent ? *spot.tag == US_TAG_SHARED
                      : *spot.tag != 0 && *spot.tag != US_TAG_SHARED);
}

const struct order_model order_model = {
    .threads = 3,
    .iterations = 200000,
    .begin = begin,
    .thread = {owner, receiver, receiver},
    .end = end,
};
