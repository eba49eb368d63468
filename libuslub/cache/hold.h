/* SPDX-License-Identifier: MIT */
/*
 * hold.h - objects that several processes hold: one pair of words per object says who.
 *
 * A process holds an object once, however many references it has: those beyond the
 * first are counted in private memory. Whoever takes the last holder and the last
 * transit out of the pair owns the object alone, and frees it. All of it is one
 * double-word swap, so a death leaves either the old pair or the new one
 * (docs/design/04-sharing.md).
 */
#ifndef US_CACHE_HOLD_H
#define US_CACHE_HOLD_H

#include "cache/cache.h"

/* The pair, taken apart. */
struct us_holders {
    uint64_t processes;   /* a bit per process slot */
    uint32_t transits;    /* handles and messages on their way */
    uint32_t incarnation; /* how often an object at this place became shared */
    uint32_t version;     /* how often the pair changed */
    bool channel;         /* the object is a channel */
};

#define US_VERSION_BITS     28
#define US_INCARNATION_BITS 19
#define US_CHANNEL_BIT      (1ULL << 47)
#define US_TRANSITS_SHIFT   48
#define US_TRANSITS_MAX     65535u

US_INLINE struct us_holders us_holders_read(struct us_pair raw)
{
    struct us_holders h = {
        .processes = raw.lo,
        .transits = (uint32_t)(raw.hi >> US_TRANSITS_SHIFT),
        .incarnation =
            (uint32_t)(raw.hi >> US_VERSION_BITS) & ((1u << US_INCARNATION_BITS) - 1),
        .version = (uint32_t)raw.hi & ((1u << US_VERSION_BITS) - 1),
        .channel = raw.hi & US_CHANNEL_BIT,
    };
    return h;
}

/* Packed for the next version. */
US_INLINE struct us_pair us_holders_next(struct us_holders h)
{
    struct us_pair raw = {
        .lo = h.processes,
        .hi = ((h.version + 1) & ((1u << US_VERSION_BITS) - 1)) |
              (uint64_t)(h.incarnation & ((1u << US_INCARNATION_BITS) - 1))
                  << US_VERSION_BITS |
              (h.channel ? US_CHANNEL_BIT : 0) |
              (uint64_t)h.transits << US_TRANSITS_SHIFT,
    };
    return raw;
}

US_INLINE bool us_holders_none(struct us_holders h)
{
    return h.processes == 0 && h.transits == 0;
}

/* One object, wherever it is: its tag and its holders. */
struct us_spot {
    uint64_t offset;
    uint16_t *tag;
    struct us_pair *holders;
    struct us_cache *cache; /* NULL: straight from the page allocator */
    uint32_t page;
    uint32_t plane;
    uint64_t usable;
};

US_INLINE struct us_pair *us_holders_at(const struct us_arena *a, uint32_t plane,
                                        uint64_t offset)
{
    return (struct us_pair *)us_at(a, a->at.holders[plane]) +
           (offset - a->data_start) / US_TAG_GRANULE(plane);
}

/* US_EFOREIGN if no object starts at `offset`. */
us_err us_spot_find(struct us_arena *a, uint64_t offset, struct us_spot *ret);

/* Bytes that were asked for, as far as the arena knows. */
uint64_t us_spot_bytes(const struct us_arena *a, const struct us_spot *spot);

/* The pair as it is; nobody holds anything where no memory was committed for it. */
US_INLINE struct us_pair us_spot_pair(const struct us_arena *a,
                                      const struct us_spot *spot)
{
    struct us_pair raw = {0};

    if (!us_committed(a, (uint64_t)((char *)spot->holders - a->base))) {
        return raw;
    }
    for (int tries = 0; tries < 100; tries++) { /* a swap later finds out anyway */
        raw.hi = us_load_acquire64(&spot->holders->hi);
        raw.lo = us_load_acquire64(&spot->holders->lo);
        if (us_load_acquire64(&spot->holders->hi) == raw.hi) {
            break;
        }
    }
    return raw;
}

US_INLINE uint64_t us_holder_bit(const struct us_arena *a)
{
    return 1ULL << (us_me(a) - 1u);
}

/* What a handle carries beside the offset, to tell this object from later ones. */
US_INLINE uint32_t us_spot_incarnation(const struct us_spot *spot, struct us_holders h)
{
    return spot->plane << US_INCARNATION_BITS | h.incarnation;
}

/* ---- all below: a->hold_lock is held, the thread's intent names the object ---- */

/* An object of ours becomes shared, held by us alone; nothing to do if we hold it. */
us_err us_hold_share(struct us_arena *a, struct us_spot *spot);
/* One transit more; `channel`: and it is a channel. We hold it. */
us_err us_hold_send(struct us_arena *a, struct us_spot *spot, bool channel,
                    struct us_holders *ret);
/* Room for one reference more, before anything is taken for it. */
us_err us_hold_prepare(struct us_arena *a);
/* One transit less, and we hold it (one reference more). */
us_err us_hold_take(struct us_arena *a, struct us_spot *spot);
/* One reference more to what is held by somebody; US_ESTALE if it is another object. */
us_err us_hold_join(struct us_arena *a, struct us_spot *spot, uint32_t incarnation);
/* Bits and transits go; *last: the object is ours alone now, and must be freed. */
us_err us_hold_remove(struct us_arena *a, struct us_spot *spot, uint64_t bits,
                      uint32_t transits, bool *last);

/* ---- the same with lock and intent ---- */

/* Do we hold the shared object? */
us_err us_hold_check(struct us_arena *a, uint32_t plane, uint64_t object);
/* One reference less; *last as above. */
us_err us_hold_drop(struct us_arena *a, struct us_thread *t, uint64_t object,
                    bool *last);
/* An object that only we hold becomes exclusively ours again. */
us_err us_hold_unshare(struct us_arena *a, struct us_thread *t, struct us_spot *spot);

/* What holds a channel's messages goes; implemented by share/channel.c. */
void us_channel_drain(struct us_arena *a, struct us_thread *t, uint64_t offset);

#endif
