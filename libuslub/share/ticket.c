/* SPDX-License-Identifier: MIT */
/*
 * ticket.c - objects through anything that carries bytes: us_send() and us_receive().
 *
 * While a ticket travels, a record in its sender's outbox stands for it. Whoever swaps
 * the record away has the ticket's transit, exactly once; everybody else who shows the
 * same ticket can only join those who hold the object.
 */
#include "share/share.h"

/* A free record of ours, committed; a->hold_lock is held. */
static us_err find_record(struct us_arena *a, uint32_t *ret)
{
    uint32_t me = us_me(a) - 1u;

    for (uint32_t tries = 0; tries < US_OUTBOX; tries++) {
        uint32_t place = a->outbox_next++ % US_OUTBOX;
        struct us_pair *record = us_outbox_record(a, me, place);
        us_err err =
            us_commit(a, (uint64_t)((char *)record - a->base), sizeof(*record));

        if (err != US_OK) {
            return err;
        }
        if (us_load_acquire64(&record->lo) == 0) {
            *ret = place;
            return US_OK;
        }
    }
    return us_fail(US_ELIMIT,
                   "arena '%s': %u handles of this process have been sent and not been "
                   "received, which is the limit; receive some, or use a Channel",
                   a->name, US_OUTBOX);
}

/* Only the owner fills records, so a free one stays free. */
static uint32_t fill_record(const struct us_arena *a, uint32_t place, uint64_t offset)
{
    struct us_pair *record = us_outbox_record(a, us_me(a) - 1u, place);
    struct us_pair free = {.lo = 0, .hi = us_load_acquire64(&record->hi)};
    struct us_pair full = {.lo = offset, .hi = (uint32_t)(free.hi + 1)};

    (void)us_cas_pair(record, free, full); /* fails where somebody writes at random */
    return (uint32_t)full.hi;
}

us_err us_send(us_arena *a, void *object, struct us_ticket *ret)
{
    struct us_thread *t = us_thread_self(a);
    struct us_holders holders;
    struct us_spot spot;
    uint32_t place = 0;
    us_err err =
        t == NULL ? us_last_code() : us_spot_find(a, us_offset(a, object), &spot);

    if (err != US_OK) {
        return err;
    }
    us_mutex_lock(&a->hold_lock);
    err = find_record(a, &place);
    us_intent_begin(t, US_OP_SEND, spot.offset);
    if (err == US_OK) {
        err = us_hold_share(a, &spot);
    }
    if (err == US_OK) {
        err = us_hold_send(a, &spot, false, &holders);
    }
    if (err == US_OK) {
        ret->offset = spot.offset;
        ret->incarnation = us_spot_incarnation(&spot, holders);
        ret->record = (us_me(a) - 1u) << 16 | place;
        ret->serial = fill_record(a, place, spot.offset);
    }
    us_intent_end(t);
    (void)pthread_mutex_unlock(&a->hold_lock);
    return err;
}

/* Swaps the ticket's record away; true: its transit is ours. */
static bool punch(struct us_arena *a, const struct us_ticket *ticket)
{
    uint32_t process = ticket->record >> 16, place = ticket->record & 0xffffu;
    struct us_pair full = {.lo = ticket->offset, .hi = ticket->serial};
    struct us_pair free = {.lo = 0, .hi = ticket->serial};
    struct us_pair *record;

    if (process >= US_PROCESSES || place >= US_OUTBOX || ticket->offset == 0) {
        return false;
    }
    record = us_outbox_look(a, process, place);
    return record != NULL && us_cas_pair(record, full, free);
}

us_err us_receive(us_arena *a, const struct us_ticket *ticket, void **ret)
{
    struct us_thread *t = us_thread_self(a);
    struct us_spot spot;
    us_err err = t == NULL ? us_last_code() : us_spot_find(a, ticket->offset, &spot);

    if (t == NULL) {
        return err;
    }
    if (err == US_EFOREIGN || err == US_ENOCACHE ||
        (err == US_OK && ticket->incarnation >> US_INCARNATION_BITS != spot.plane)) {
        return us_fail(US_ESTALE,
                       "arena '%s': there is no object at offset 0x%llx any more: its "
                       "last holder let go of it, or its sender died before the handle "
                       "was received",
                       a->name, (unsigned long long)ticket->offset);
    }
    if (err != US_OK) {
        return err;
    }
    us_mutex_lock(&a->hold_lock);
    us_intent_begin(t, US_OP_TAKE, spot.offset);
    err = us_hold_prepare(a);
    if (err == US_OK) {
        err = punch(a, ticket) ? us_hold_take(a, &spot)
                               : us_hold_join(a, &spot, ticket->incarnation);
    }
    us_intent_end(t);
    (void)pthread_mutex_unlock(&a->hold_lock);
    *ret = us_at(a, ticket->offset);
    return err;
}
