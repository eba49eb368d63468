/* SPDX-License-Identifier: MIT */
/*
 * slab_word.h - the two words of a slab that change together.
 *
 *   lo: freelist:44  mark:4  -:16
 *   hi: inuse:16  objects:15  frozen:1  version:32
 *
 * freelist is the offset of the first free object that no CPU owns; objects - inuse is
 * its length. Every swap steps the version. A slab with a mark is frozen.
 */
#ifndef US_SLAB_SLAB_WORD_H
#define US_SLAB_SLAB_WORD_H

#include "arena/layout.h"

#define US_MARK_SHIFT  US_OFFSET_BITS
#define US_MARK_STRAY  1u /* waits for its node's list, see us_stray() */
#define US_MARK_POISON 2u /* out of use for ever */

struct us_slab_word {
    uint64_t freelist;
    uint32_t inuse;
    uint32_t objects;
    uint32_t mark;
    bool frozen;
};

US_INLINE struct us_pair us_slab_load(const struct us_page *p)
{
    struct us_pair raw;

    /* Two loads may mix two states: the compare-and-swap that follows would fail then.
     */
    raw.hi = us_load_acquire64(&p->slab.hi);
    raw.lo = us_load_acquire64(&p->slab.lo);
    return raw;
}

US_INLINE struct us_slab_word us_slab_read(struct us_pair raw)
{
    struct us_slab_word word = {
        .freelist = raw.lo & US_OFFSET_MASK,
        .inuse = (uint32_t)(raw.hi & 0xffff),
        .objects = (uint32_t)(raw.hi >> 16 & 0x7fff),
        .mark = (uint32_t)(raw.lo >> US_MARK_SHIFT) & 15,
        .frozen = raw.hi >> 31 & 1,
    };
    return word;
}

US_INLINE struct us_pair us_slab_pack(struct us_pair before, struct us_slab_word word)
{
    struct us_pair raw = {
        .lo = (word.freelist & US_OFFSET_MASK) | (uint64_t)word.mark << US_MARK_SHIFT,
        .hi = (before.hi & ~0xffffffffULL) + (1ULL << 32) + word.inuse +
              ((uint64_t)word.objects << 16) + ((uint64_t)word.frozen << 31),
    };
    return raw;
}

/* Linux: slab_update_freelist(), mm/slub.c, v6.18. */
US_INLINE bool us_slab_swap(struct us_page *p, struct us_pair old,
                            struct us_slab_word new)
{
    return us_cas_pair(&p->slab, old, us_slab_pack(old, new));
}

#endif
