/* SPDX-License-Identifier: MIT */
/*
 * page_word.h - the state word of a block of pages: state:4 order:6 owner:16
 * version:38.
 *
 * The one truth of the page allocator. Every change is one store or one
 * compare-and-swap of this word, and every change steps the version.
 */
#ifndef US_ARENA_PAGE_WORD_H
#define US_ARENA_PAGE_WORD_H

#include "arena/layout.h"

struct us_page_word {
    enum us_block_state state;
    uint32_t order;
    uint32_t owner; /* thread slot + 1 of whoever holds it in SPLIT, MERGE or ALLOC */
};

US_INLINE struct us_page_word us_page_word_read(uint64_t raw)
{
    struct us_page_word word = {
        .state = (enum us_block_state)(raw & 15),
        .order = (uint32_t)(raw >> 4 & 63),
        .owner = (uint32_t)(raw >> 10 & 0xffff),
    };
    return word;
}

/* `before` gives the version to step. */
US_INLINE uint64_t us_page_word_next(uint64_t before, enum us_block_state state,
                                     uint32_t order, uint32_t owner)
{
    return (before & ~((1ULL << 26) - 1)) + (1ULL << 26) + ((uint64_t)owner << 10) +
           ((uint64_t)order << 4) + (uint64_t)state;
}

#endif
