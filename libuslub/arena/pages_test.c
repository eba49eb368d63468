/* SPDX-License-Identifier: MIT */
/*
 * pages_test.c - the page allocator by itself: lowest address first, splits and merges,
 * the reserve, other nodes, exhaustion, memory given back; and pairs of threads on few
 * pages.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "arena/arena.h"

static us_arena *create(uint64_t pages, uint32_t nodes, uint64_t reserve_pages)
{
    struct us_arena_config config = {.size = pages * US_PAGE_SIZE,
                                     .cpus = 2,
                                     .nodes = nodes,
                                     .reserve = reserve_pages * US_PAGE_SIZE};
    us_arena *a;
    us_err err = us_arena_create(NULL, &config, &a);

    if (err != US_OK) {
        (void)fprintf(stderr, "%s\n", us_last_error());
    }
    assert(err == US_OK);
    return a;
}

static uint32_t take(us_arena *a, uint32_t gfp, int node, uint32_t order)
{
    struct us_run run;
    us_err err = us_pages_alloc(a, us_thread_self(a), gfp, 0, node, order,
                                (uint64_t)US_PAGE_SIZE << order, &run);

    if (err != US_OK) {
        return UINT32_MAX;
    }
    us_pages_publish(a, run.page, US_BLOCK_META);
    return run.page - a->first_page;
}

static void give(us_arena *a, uint32_t page)
{
    us_pages_free(a, us_thread_self(a), page + a->first_page);
}

static uint64_t free_pages(us_arena *a, uint32_t node)
{
    struct us_pages_info info;
    uint64_t indexed = 0;

    assert(us_pages_stat(a, node, &info) == US_OK);
    for (uint32_t order = 0; order < info.orders; order++) {
        indexed += (uint64_t)info.free[order] << order;
    }
    assert(indexed == info.free_pages);
    return info.free_pages;
}

static void the_lowest_address_of_the_smallest_order_is_taken(void)
{
    us_arena *a = create(64, 1, 0);

    assert(take(a, 0, -1, 0) == 0);
    assert(take(a, 0, -1, 2) == 4);
    assert(take(a, 0, -1, 0) == 1);
    assert(take(a, 0, -1, 1) == 2);
    assert(take(a, 0, -1, 0) == 8);
    give(a, 1);
    give(a, 4);
    assert(take(a, 0, -1, 0) == 1);
    us_arena_detach(a);
}

static void freed_blocks_merge_back_to_one(void)
{
    us_arena *a = create(64, 1, 0);
    uint32_t pages[64];
    struct us_pages_info info;

    for (int i = 0; i < 64; i++) {
        pages[i] = take(a, 0, -1, 0);
    }
    assert(take(a, 0, -1, 0) == UINT32_MAX);
    assert(us_last_code() == US_ENOMEM);
    for (int i = 0; i < 64; i++) {
        give(a, pages[(i * 37) % 64]);
    }
    assert(us_pages_stat(a, 0, &info) == US_OK);
    assert(info.free[6] == 1 && info.free_pages == 64);
    us_arena_detach(a);
}

static void a_size_that_is_no_power_of_two_is_cut_into_aligned_blocks(void)
{
    us_arena *a = create(44, 1, 0); /* 32 + 8 + 4 */
    struct us_pages_info info;

    assert(us_pages_stat(a, 0, &info) == US_OK);
    assert(info.free[5] == 1 && info.free[3] == 1 && info.free[2] == 1);
    assert(take(a, 0, -1, 2) == 40);
    assert(take(a, 0, -1, 3) == 32);
    assert(take(a, 0, -1, 5) == 0);
    give(a, 40);
    give(a, 0);
    give(a, 32);
    assert(free_pages(a, 0) == 44);
    us_arena_detach(a);
}

static void another_node_helps_unless_this_node_was_insisted_on(void)
{
    us_arena *a = create(32, 2, 0);

    assert(take(a, 0, 1, 4) == 16);
    assert(take(a, US_GFP_THISNODE, 1, 0) == UINT32_MAX);
    assert(take(a, 0, 1, 0) == 0);
    assert(free_pages(a, 0) == 15 && free_pages(a, 1) == 0);
    us_arena_detach(a);
}

static void the_reserve_is_for_emergencies(void)
{
    us_arena *a = create(16, 1, 4);
    int taken = 0;

    while (take(a, 0, -1, 0) != UINT32_MAX) {
        taken++;
    }
    assert(taken == 12);
    assert(take(a, US_GFP_EMERGENCY, -1, 0) != UINT32_MAX);
    assert(take(a, 0, -1, 0) == UINT32_MAX);
    us_arena_detach(a);
}

static void only_what_is_reached_is_committed_and_free_pages_go_back(void)
{
    us_arena *a = create(4096, 1, 0);
    struct us_thread *t = us_thread_self(a);
    struct us_run run;
    uint64_t gone, start;

    assert(us_pages_alloc(a, t, 0, 0, -1, 11, 6220800, &run) == US_OK);
    start = us_page_offset(run.page);
    assert(us_committed_pages(a, start, 8 << 20) == 1519);
    memset(us_at(a, start), 1, 6220800);
    us_pages_free(a, t, run.page);
    assert(us_arena_trim(a, &gone) == US_OK);
    assert(us_committed_pages(a, a->data_start, a->data_bytes) == 0);
    assert(free_pages(a, 0) == 4096);
    us_arena_detach(a);
}

/* ---- two at once ---- */

static us_arena *shared;

static void *churn(void *seed)
{
    uint64_t random = (uintptr_t)seed * 9973;
    uint32_t held[16];

    memset(held, 0xff, sizeof(held));
    for (int i = 0; i < 60000; i++) {
        uint32_t slot;

        random = random * 6364136223846793005ULL + 1442695040888963407ULL;
        slot = (uint32_t)(random >> 40) % 16;
        if (held[slot] != UINT32_MAX) {
            give(shared, held[slot]);
            held[slot] = UINT32_MAX;
        } else {
            held[slot] = take(shared, 0, -1, (uint32_t)(random >> 50) % 4);
        }
    }
    for (int i = 0; i < 16; i++) {
        if (held[i] != UINT32_MAX) {
            give(shared, held[i]);
        }
    }
    return NULL;
}

static void threads_split_and_merge_at_once_and_lose_nothing(void)
{
    pthread_t ids[3];
    struct us_pages_info info;

    shared = create(64, 1, 0);
    for (uintptr_t i = 0; i < 3; i++) {
        int failed = pthread_create(&ids[i], NULL, churn, (void *)(i + 1));

        assert(failed == 0);
    }
    for (int i = 0; i < 3; i++) {
        (void)pthread_join(ids[i], NULL);
    }
    assert(us_pages_stat(shared, 0, &info) == US_OK);
    assert(info.free_pages == 64 && info.free[6] == 1);
    us_arena_detach(shared);
}

static pthread_barrier_t together;

static void *take_one(void *unused)
{
    (void)unused;
    (void)us_thread_self(shared);
    (void)pthread_barrier_wait(&together);
    for (int i = 0; i < 20; i++) {
        uint32_t page = take(shared, 0, -1, 0);

        assert(page != UINT32_MAX); /* the other may have the only block in hand */
        give(shared, page);
    }
    return NULL;
}

static void a_block_in_the_hands_of_a_splitter_is_waited_for(void)
{
    (void)pthread_barrier_init(&together, NULL, 2);
    for (int round = 0; round < 500; round++) {
        pthread_t id;
        int failed;

        shared = create(64, 1, 0);
        failed = pthread_create(&id, NULL, take_one, NULL);
        assert(failed == 0);
        (void)take_one(NULL);
        (void)pthread_join(id, NULL);
        us_arena_detach(shared);
    }
    (void)pthread_barrier_destroy(&together);
}

int main(void)
{
    the_lowest_address_of_the_smallest_order_is_taken();
    freed_blocks_merge_back_to_one();
    a_size_that_is_no_power_of_two_is_cut_into_aligned_blocks();
    another_node_helps_unless_this_node_was_insisted_on();
    the_reserve_is_for_emergencies();
    only_what_is_reached_is_committed_and_free_pages_go_back();
    threads_split_and_merge_at_once_and_lose_nothing();
    a_block_in_the_hands_of_a_splitter_is_waited_for();
    return 0;
}
