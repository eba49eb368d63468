/* SPDX-License-Identifier: MIT */
/* pages.h - the inside of the page allocator, for pages.c and mend.c alone. */
#ifndef US_ARENA_PAGES_H
#define US_ARENA_PAGES_H

#include "arena/arena.h"

US_INLINE struct us_node_pages *us_node_pages(const struct us_arena *a, uint32_t node)
{
    return (struct us_node_pages *)us_at(a, a->at.node_pages) + node;
}

/* One bit per block of `order` that is free. */
US_INLINE uint64_t *us_free_bitmap(const struct us_arena *a, uint32_t node,
                                   uint32_t order)
{
    return us_at(a, a->at.bitmap[node][order]);
}

/*
 * Splits, merges and corrections hide a block for a moment. They are counted before and
 * after, so that a search that found nothing knows whether to look again.
 */
US_INLINE void us_change_begin(const struct us_arena *a, uint32_t node)
{
    us_fetch_add_acq_rel64(&us_node_pages(a, node)->changes, 1);
}

US_INLINE void us_change_end(const struct us_arena *a, uint32_t node)
{
    us_fetch_add_acq_rel64(&us_node_pages(a, node)->changes, (1ULL << 32) - 1);
}

/* Makes the bit say what the word says. */
void us_index_refresh(const struct us_arena *a, uint32_t node, uint32_t order,
                      uint32_t page);
/* A block that is ours, whatever its word says, is free; not yet merged. */
void us_make_free(struct us_arena *a, uint32_t node, uint32_t page, uint32_t order);
/* Merges the free block with its buddies; `me`: thread slot + 1. */
void us_merge(struct us_arena *a, uint32_t me, uint32_t node, uint32_t page,
              uint32_t order);

#endif
