/* SPDX-License-Identifier: MIT */
/*
 * hold.c - who holds a shared object; see hold.h.
 *
 * The tag says US_TAG_SHARED from the first share() to the last drop. What the pair
 * says is believed only meanwhile, so a process that died between the two stores of
 * share() has left an object that is simply its own.
 */
#include "cache/hold.h"

#include <stdlib.h>
#include <string.h>

us_err us_spot_find(struct us_arena *a, uint64_t offset, struct us_spot *ret)
{
    struct us_object_info info;
    us_err err;

    if (offset - a->data_start >= a->data_bytes) {
        return us_fail(US_EFOREIGN,
                       "arena '%s': offset 0x%llx is outside the arena's pages; "
                       "expected the address that an allocation returned",
                       a->name, (unsigned long long)offset);
    }
    err = us_object_stat(a, us_at(a, offset), &info);
    if (err != US_OK) {
        return err;
    }
    ret->offset = offset;
    ret->cache = info.large ? NULL : info.cache;
    ret->page = info.page + a->first_page;
    ret->plane = info.large ? US_TAG_PLANES - 1 : ret->cache->tag_shift - 3;
    ret->tag = info.large ? us_large_tag(a, ret->page) : us_tag(ret->cache, offset);
    ret->holders = us_holders_at(a, ret->plane, offset);
    ret->usable = info.usable;
    return US_OK;
}

uint64_t us_spot_bytes(const struct us_arena *a, const struct us_spot *spot)
{
    uint64_t bytes = spot->cache != NULL
                         ? us_object_bytes(spot->cache)
                         : us_load_relaxed64(&a->pages[spot->page].requested);

    return bytes <= spot->usable ? bytes : spot->usable;
}

/* ---- references of this process beyond the first, by offset; 0: an empty place ----
 */

static size_t place_of(const struct us_refs *refs, uint64_t offset)
{
    size_t i = (size_t)(offset * 0x9e3779b97f4a7c15ULL >> 20) & (refs->room - 1);

    while (refs->entries[i].offset != 0 && refs->entries[i].offset != offset) {
        i = (i + 1) & (refs->room - 1);
    }
    return i;
}

static us_err grow(struct us_refs *refs)
{
    struct us_refs larger = {.room = refs->room == 0 ? 64 : refs->room * 2};

    larger.entries = calloc(larger.room, sizeof(*larger.entries));
    if (larger.entries == NULL) {
        return us_fail(US_ENOMEM, "no memory to count references to shared objects");
    }
    for (size_t i = 0; i < refs->room; i++) {
        if (refs->entries[i].offset != 0) {
            larger.entries[place_of(&larger, refs->entries[i].offset)] =
                refs->entries[i];
        }
    }
    larger.used = refs->used;
    free(refs->entries);
    *refs = larger;
    return US_OK;
}

us_err us_hold_prepare(struct us_arena *a)
{
    return a->extra.used >= a->extra.room / 2 ? grow(&a->extra) : US_OK;
}

static void refs_add(struct us_arena *a, uint64_t offset)
{
    struct us_refs *refs = &a->extra;
    size_t i = place_of(refs, offset);

    refs->used += refs->entries[i].offset == 0;
    refs->entries[i].offset = offset;
    refs->entries[i].count++;
}

/* Takes the entry out and closes the gap. */
static void refs_forget(struct us_refs *refs, size_t i)
{
    size_t next = i;

    refs->used--;
    refs->entries[i] = (struct us_ref){0};
    for (;;) {
        struct us_ref moved;

        next = (next + 1) & (refs->room - 1);
        moved = refs->entries[next];
        if (moved.offset == 0) {
            return;
        }
        refs->entries[next] = (struct us_ref){0};
        refs->entries[place_of(refs, moved.offset)] = moved;
    }
}

static bool refs_has(const struct us_arena *a, uint64_t offset)
{
    return a->extra.used != 0 &&
           a->extra.entries[place_of(&a->extra, offset)].offset != 0;
}

static bool refs_take(struct us_arena *a, uint64_t offset)
{
    size_t i;

    if (a->extra.used == 0) {
        return false;
    }
    i = place_of(&a->extra, offset);
    if (a->extra.entries[i].offset == 0) {
        return false;
    }
    if (--a->extra.entries[i].count == 0) {
        refs_forget(&a->extra, i);
    }
    return true;
}

/* ---- errors ---- */

static us_err not_held(const struct us_arena *a, const struct us_spot *spot,
                       uint16_t tag)
{
    if (tag == 0) {
        return us_fail(US_EDOUBLEFREE,
                       "arena '%s': the object at offset 0x%llx is already free; free "
                       "or drop each reference once",
                       a->name, (unsigned long long)spot->offset);
    }
    if (tag == US_TAG_SHARED) {
        return us_fail(US_ENOTOWNER,
                       "arena '%s': the object at offset 0x%llx is shared, but "
                       "participant %d (this process) does not hold it",
                       a->name, (unsigned long long)spot->offset, us_me(a) - 1);
    }
    return us_fail(US_ENOTOWNER,
                   "arena '%s': the object at offset 0x%llx belongs to participant "
                   "%d%s, this process is %d",
                   a->name, (unsigned long long)spot->offset, (tag & US_TAG_OWNER) - 1,
                   tag & US_TAG_MOVING ? " and is on the move" : "", us_me(a) - 1);
}

us_err us_hold_check(struct us_arena *a, uint32_t plane, uint64_t object)
{
    struct us_spot spot = {.offset = object,
                           .holders = us_holders_at(a, plane, object)};

    return us_spot_pair(a, &spot).lo & us_holder_bit(a)
               ? US_OK
               : not_held(a, &spot, US_TAG_SHARED);
}

/* ---- one pair ---- */

us_err us_hold_share(struct us_arena *a, struct us_spot *spot)
{
    us_err err = us_commit(a, (uint64_t)((char *)spot->holders - a->base),
                           sizeof(*spot->holders));

    while (err == US_OK) {
        struct us_pair old = us_spot_pair(a, spot);
        struct us_holders h = us_holders_read(old);
        uint16_t tag = us_load_acquire16(spot->tag), mine = us_me(a);

        if (tag == US_TAG_SHARED) {
            return h.processes & us_holder_bit(a) ? US_OK : not_held(a, spot, tag);
        }
        if (tag != mine) {
            return not_held(a, spot, tag);
        }
        h.processes = us_holder_bit(a);
        h.transits = 0;
        h.channel = false;
        h.incarnation++;
        if (us_cas_pair(spot->holders, old, us_holders_next(h)) &&
            us_cas_acq_rel16(spot->tag, &mine, US_TAG_SHARED)) {
            return US_OK;
        }
    }
    return err;
}

us_err us_hold_send(struct us_arena *a, struct us_spot *spot, bool channel,
                    struct us_holders *ret)
{
    for (;;) {
        struct us_pair old = us_spot_pair(a, spot);
        struct us_holders h = us_holders_read(old);

        if (!(h.processes & us_holder_bit(a))) {
            return not_held(a, spot, us_load_acquire16(spot->tag));
        }
        if (h.transits == US_TRANSITS_MAX) {
            return us_fail(US_ELIMIT,
                           "arena '%s': the object at offset 0x%llx is on its way in "
                           "%u messages, which is the limit; receive some of them",
                           a->name, (unsigned long long)spot->offset, US_TRANSITS_MAX);
        }
        h.transits++;
        h.channel = h.channel || channel;
        if (us_cas_pair(spot->holders, old, us_holders_next(h))) {
            *ret = h;
            return US_OK;
        }
    }
}

/* Adds our bit, or counts one more reference under it. */
static void join(struct us_arena *a, struct us_spot *spot, struct us_holders *h)
{
    if (h->processes & us_holder_bit(a)) {
        refs_add(a, spot->offset);
    }
    h->processes |= us_holder_bit(a);
}

us_err us_hold_take(struct us_arena *a, struct us_spot *spot)
{
    for (;;) {
        struct us_pair old = us_spot_pair(a, spot);
        struct us_holders h = us_holders_read(old), was = h;

        if (us_load_acquire16(spot->tag) != US_TAG_SHARED || h.transits == 0) {
            return us_fail(US_ECORRUPT,
                           "arena '%s': a message names the object at offset 0x%llx, "
                           "which is not on its way to anybody; the arena is damaged: "
                           "recreate it",
                           a->name, (unsigned long long)spot->offset);
        }
        join(a, spot, &h);
        h.transits--;
        if (us_cas_pair(spot->holders, old, us_holders_next(h))) {
            return US_OK;
        }
        if (was.processes & us_holder_bit(a)) {
            (void)refs_take(a, spot->offset);
        }
    }
}

us_err us_hold_join(struct us_arena *a, struct us_spot *spot, uint32_t incarnation)
{
    for (;;) {
        struct us_pair old = us_spot_pair(a, spot);
        struct us_holders h = us_holders_read(old), was = h;

        if (us_load_acquire16(spot->tag) != US_TAG_SHARED || us_holders_none(h) ||
            us_spot_incarnation(spot, h) != incarnation) {
            return us_fail(US_ESTALE,
                           "arena '%s': the object that the handle means is gone from "
                           "offset 0x%llx: its last holder let go of it, or its sender "
                           "died before the handle was received",
                           a->name, (unsigned long long)spot->offset);
        }
        join(a, spot, &h);
        if (us_cas_pair(spot->holders, old, us_holders_next(h))) {
            return US_OK;
        }
        if (was.processes & us_holder_bit(a)) {
            (void)refs_take(a, spot->offset);
        }
    }
}

us_err us_hold_remove(struct us_arena *a, struct us_spot *spot, uint64_t bits,
                      uint32_t transits, bool *last)
{
    *last = false;
    for (;;) {
        struct us_pair old = us_spot_pair(a, spot);
        struct us_holders h = us_holders_read(old);
        uint16_t shared = US_TAG_SHARED;

        if ((h.processes & bits) != bits || h.transits < transits) {
            return not_held(a, spot, us_load_acquire16(spot->tag));
        }
        h.processes &= ~bits;
        h.transits -= transits;
        if (!us_cas_pair(spot->holders, old, us_holders_next(h))) {
            continue;
        }
        *last = us_holders_none(h) && us_cas_acq_rel16(spot->tag, &shared, us_me(a));
        return US_OK;
    }
}

/* ---- with lock and intent ---- */

us_err us_hold_drop(struct us_arena *a, struct us_thread *t, uint64_t object,
                    bool *last)
{
    struct us_spot spot;
    us_err err = us_spot_find(a, object, &spot);

    *last = false;
    if (err != US_OK) {
        return err;
    }
    us_mutex_lock(&a->hold_lock);
    if (!refs_take(a, object)) {
        us_intent_begin(t, US_OP_DROP, object);
        err = us_hold_remove(a, &spot, us_holder_bit(a), 0, last);
        if (!*last) {
            us_intent_end(t);
        }
    }
    (void)pthread_mutex_unlock(&a->hold_lock);
    if (*last && us_holders_read(us_spot_pair(a, &spot)).channel) {
        us_channel_drain(a, t, object);
        us_intent_begin(t, US_OP_DROP, object);
    }
    if (!*last && err == US_OK) {
        us_reap_sometimes(a); /* those who hold it still may be dead */
    }
    return err;
}

static us_err try_unshare(struct us_arena *a, struct us_thread *t, struct us_spot *spot)
{
    us_err err = US_OK;

    us_mutex_lock(&a->hold_lock);
    for (;;) {
        struct us_pair old = us_spot_pair(a, spot);
        struct us_holders h = us_holders_read(old);
        uint16_t shared = US_TAG_SHARED;

        if (h.processes != us_holder_bit(a) || h.transits != 0 || h.channel ||
            refs_has(a, spot->offset)) {
            err = us_fail(US_ENOTOWNER,
                          "arena '%s': the object at offset 0x%llx is shared: others "
                          "hold it, or it is on its way to somebody (%d holders, %u on "
                          "their way); they have to let go first",
                          a->name, (unsigned long long)spot->offset,
                          __builtin_popcountll(h.processes), h.transits);
            break;
        }
        us_intent_begin(t, US_OP_DROP, spot->offset);
        h.processes = 0;
        if (us_cas_pair(spot->holders, old, us_holders_next(h))) {
            (void)us_cas_acq_rel16(spot->tag, &shared, us_me(a));
            break;
        }
    }
    us_intent_end(t);
    (void)pthread_mutex_unlock(&a->hold_lock);
    return err;
}

us_err us_hold_unshare(struct us_arena *a, struct us_thread *t, struct us_spot *spot)
{
    us_err err;

    if (us_load_acquire16(spot->tag) != US_TAG_SHARED) {
        return US_OK;
    }
    err = try_unshare(a, t, spot);
    if (err == US_ENOTOWNER) { /* those who hold it, too, may be dead */
        us_reap_soon(a);
        err = try_unshare(a, t, spot);
    }
    return err;
}
