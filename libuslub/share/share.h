/* SPDX-License-Identifier: MIT */
/*
 * share.h - objects between processes: tickets, channels, and what the dead have left.
 *
 * Order of a message, sender: one transit more, then the place that names it (record of
 * the outbox, cell of a channel); receiver: out of that place, then one transit less.
 * So the number of transits is never smaller than the number of places, and where a
 * death made it larger, the reaper counts the places again.
 */
#ifndef US_SHARE_SHARE_H
#define US_SHARE_SHARE_H

#include "cache/hold.h"

/* ---- outboxes ---- */

US_INLINE struct us_pair *us_outbox_record(const struct us_arena *a, uint32_t process,
                                           uint32_t place)
{
    return (struct us_pair *)us_at(a, a->at.outboxes) + (uint64_t)process * US_OUTBOX +
           place;
}

/* The record, or NULL where no memory was ever committed. */
US_INLINE struct us_pair *us_outbox_look(const struct us_arena *a, uint32_t process,
                                         uint32_t place)
{
    struct us_pair *record = us_outbox_record(a, process, place);

    return us_committed(a, (uint64_t)((char *)record - a->base)) ? record : NULL;
}

/* ---- channels ---- */

#define US_CELL_FORMAT_SHIFT 44
#define US_CELL_TURN_BITS    40
#define US_CELL_TURN_MASK    ((1ULL << US_CELL_TURN_BITS) - 1)
#define US_CELL_FULL         (1ULL << US_CELL_TURN_BITS)
#define US_CELL_NBYTES_SHIFT (US_CELL_TURN_BITS + 1)
#define US_CELL_NBYTES_MAX   ((1u << 23) - 1)

US_INLINE uint64_t *us_channel_entry(const struct us_arena *a, uint32_t i)
{
    return (uint64_t *)us_at(a, a->at.channels) + i;
}

/*
 * The channel at `offset` and how many cells it really has room for; NULL if there is
 * none that makes sense.
 */
struct us_channel_block *us_channel_at(struct us_arena *a, uint64_t offset,
                                       uint32_t *capacity);

/*
 * Threads that had ended inside a call before us_mend() looked. Others may end at any
 * moment: what they were in the middle of is not mended yet, and their slots say what.
 */
struct us_lost {
    uint64_t slots[US_THREADS / 64];
};
void us_lost_look(struct us_arena *a, struct us_lost *ret);
bool us_lost_before(const struct us_lost *lost, uint32_t slot);

/*
 * Mends what dead threads were in the middle of. False: not all of it can be had now,
 * and their slots have to stay. The caller is the only reaper.
 */
bool us_mend(struct us_arena *a, struct us_thread *t, struct us_reaped *ret);

/* Places that name an object: full cells of channels, records of outboxes. */
uint64_t us_places(struct us_arena *a);

#endif
