/* SPDX-License-Identifier: MIT */
/*
 * buddy.h - a node of four pages, one free block at first; all is committed for ever.
 *
 * Engine: us_pages_alloc() and us_pages_free() of pages.c.
 */
#ifndef BUDDY_H
#define BUDDY_H

#include "world.h"

#include "arena/pages.c"

#define PAGES  4
#define ORDERS 3

us_err us_commit(struct us_arena *a, uint64_t offset, uint64_t bytes)
{
    (void)a;
    (void)offset;
    (void)bytes;
    return US_OK;
}

void us_uncommit(struct us_arena *a, uint64_t offset, uint64_t bytes)
{
    (void)a;
    (void)offset;
    (void)bytes;
}

uint64_t us_committed_pages(const struct us_arena *a, uint64_t offset, uint64_t bytes)
{
    (void)a;
    (void)offset;
    (void)bytes;
    return 0;
}

void us_last_clear(void)
{
}

us_err us_last_code(void)
{
    return US_OK;
}

static inline struct us_node_pages *buddy_node(void)
{
    return us_at(&world_arena[0], world_arena[0].at.node_pages);
}

static inline uint64_t buddy_bits(uint32_t order)
{
    return *(uint64_t *)us_at(&world_arena[0], world_arena[0].at.bitmap[0][order]);
}

static inline void buddy_begin(void)
{
    world_begin();
    for (int i = 0; i < ORDER_THREADS; i++) {
        struct us_arena *a = &world_arena[i];

        a->end_page = WORLD_FIRST + PAGES;
        a->config.node_pages = a->at.data_pages = PAGES;
        a->at.node_pages = us_page_offset(5);
        for (uint32_t order = 0; order < ORDERS; order++) {
            a->at.bitmap[0][order] = us_page_offset(6) + order * sizeof(uint64_t);
        }
    }
    us_pages_init(&world_arena[0]);
    for (uint32_t i = 0; i < PAGES; i++) {
        order_word(&world_page(WORLD_FIRST + i)->word, 8);
        order_payload(i);
    }
    for (uint32_t order = 0; order < ORDERS; order++) {
        order_word((char *)WORLD_AT(6) + order * sizeof(uint64_t), 8);
        order_word(&buddy_node()->hint[order], 8);
    }
    order_word(&buddy_node()->changes, 8);
    order_word(&buddy_node()->free_pages, 8);
    order_word(&buddy_node()->ended, 8);
    for (int i = 0; i < ORDER_THREADS; i++) {
        order_word(&world_thread(i)->changing, 4);
    }
}

/* Gets a block and gives it back; who gets none has been unlucky. */
static inline void buddy_use(uint32_t order)
{
    int me = order_thread();
    struct us_run run;

    if (us_pages_alloc(&world_arena[me], world_thread(me), 0, 0, 0, order, 0, &run) ==
        US_OK) {
        for (uint32_t i = 0; i < 1u << order; i++) {
            order_touch(run.page - WORLD_FIRST + i);
        }
        us_pages_free(&world_arena[me], world_thread(me), run.page);
    }
}

/* Blocks tile, the index is right, and so is the counter. */
static inline void buddy_check(void)
{
    uint64_t free_pages = 0;
    uint32_t order;

    for (uint32_t page = WORLD_FIRST; page < WORLD_FIRST + PAGES; page += 1u << order) {
        enum us_block_state state = us_block_state(&world_arena[0], page, &order);

        order_assert(state == US_BLOCK_FREE || state == US_BLOCK_ALLOC);
        order_assert(order < ORDERS);
        if (state == US_BLOCK_FREE) {
            order_assert(buddy_bits(order) >> ((page - WORLD_FIRST) >> order) & 1);
            free_pages += 1u << order;
        }
    }
    for (order = 0; order < ORDERS; order++) {
        for (uint32_t i = 0; i < PAGES >> order; i++) {
            uint32_t its;

            order_assert(!(buddy_bits(order) >> i & 1) ||
                         (us_block_state(&world_arena[0], WORLD_FIRST + (i << order),
                                         &its) == US_BLOCK_FREE &&
                          its == order));
        }
    }
    order_assert(free_pages == buddy_node()->free_pages);
}

#endif
