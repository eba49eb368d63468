/* SPDX-License-Identifier: MIT */
/*
 * mend.c - pages after a death: blocks that the dead had in hand, and the caches of the
 * page allocator (bitmaps, counters), made anew from the words of blocks.
 *
 * Called by one reaper at a time, while others allocate and free. What each half-done
 * block means is in the table of docs/design/01-arena.md.
 */
#include <sched.h>

#include "arena/pages.h"

#define TRIES_MAX 200 /* for a moment in which nobody changes pages */

/* Calls fn for each block of a node, in order; inner pages of what is being split or
 * merged are passed over. */
typedef void (*block_fn)(struct us_arena *a, struct us_thread *t, uint32_t page,
                         struct us_page_word word);

static void each_block(struct us_arena *a, struct us_thread *t, uint32_t node,
                       block_fn fn)
{
    uint32_t page = us_node_start(a, node);
    uint32_t end = page + (uint32_t)a->config.node_pages;

    while (page < end) {
        const struct us_page *p = us_page_at(a, page);
        struct us_page_word word =
            us_page_word_read(p == NULL ? 0 : us_load_acquire64(&p->word));

        if (word.state != US_BLOCK_TAIL && us_block_fits(a, page, word.order)) {
            fn(a, t, page, word); /* may change where the next one begins */
            word = us_page_word_read(us_load_acquire64(&p->word));
        }
        page += us_block_fits(a, page, word.order)
                    ? us_block_step(a, word.state, word.order)
                    : 1;
    }
}

/* Of what order is the block that its dead owner left half split or half merged? */
static uint32_t order_now(const struct us_arena *a, uint32_t page,
                          struct us_page_word word)
{
    uint32_t half = word.state == US_BLOCK_SPLIT ? word.order - 1 : word.order, other;
    bool tail;

    if ((word.state != US_BLOCK_SPLIT && word.state != US_BLOCK_MERGE) ||
        (word.state == US_BLOCK_SPLIT && word.order == 0)) {
        return word.order;
    }
    tail = us_block_state(a, page + (1u << half), &other) == US_BLOCK_TAIL;
    if (tail && us_block_fits(a, page, half + 1)) {
        return half + 1; /* not split yet; merged already */
    }
    return half;
}

static void mend_block(struct us_arena *a, struct us_thread *t, uint32_t page,
                       struct us_page_word word)
{
    uint32_t node = us_page_node(a, page), order;

    (void)t;
    if ((word.state != US_BLOCK_SPLIT && word.state != US_BLOCK_MERGE &&
         word.state != US_BLOCK_ALLOC) ||
        !us_thread_dead(a, word.owner - 1)) {
        return;
    }
    us_store_release32(&a->header->pages_suspect, 1);
    order = order_now(a, page, word);
    us_change_begin(a, node);
    us_make_free(a, node, page, order);
    us_change_end(a, node);
    us_fetch_add_relaxed64(&a->header->mended_blocks, 1);
}

/* Free blocks are in the index, and merged. */
static void index_block(struct us_arena *a, struct us_thread *t, uint32_t page,
                        struct us_page_word word)
{
    if (word.state == US_BLOCK_FREE) {
        us_index_refresh(a, us_page_node(a, page), word.order, page);
        us_merge(a, us_thread_slot(a, t) + 1, us_page_node(a, page), page, word.order);
    }
}

/* Every bit of the index leads to a free block. */
static void correct_index(struct us_arena *a, uint32_t node)
{
    for (uint32_t order = 0; order < a->at.orders; order++) {
        uint64_t *map = us_free_bitmap(a, node, order);
        uint64_t words = ((a->config.node_pages >> order) + 63) / 64;

        us_store_relaxed64(&us_node_pages(a, node)->hint[order], 0);
        for (uint64_t i = 0; i < words; i++) {
            uint64_t bits = us_load_acquire64(map + i);

            for (; bits != 0; bits &= bits - 1) {
                uint64_t bit = i * 64 + (uint64_t)__builtin_ctzll(bits);
                uint32_t page = us_node_start(a, node) + (uint32_t)(bit << order);

                if (us_block_fits(a, page, order)) {
                    us_index_refresh(a, node, order, page);
                } else {
                    us_fetch_and_acq_rel64(map + i, ~(bits & -bits));
                }
            }
        }
    }
}

/* ---- counting again ---- */

static bool somebody_changes_pages(const struct us_arena *a)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high);

    for (uint32_t slot = 0; slot < high && slot < US_THREADS; slot++) {
        if (us_load_acquire32(&us_thread_at(a, slot)->changing) != 0 &&
            !us_thread_dead(a, slot)) {
            return true;
        }
    }
    return false;
}

struct census {
    uint64_t free_pages, kept; /* kept: of those, committed */
    bool tiled;
};

static struct census take_census(struct us_arena *a, uint32_t node)
{
    struct census c = {.tiled = true};
    uint32_t page = us_node_start(a, node);
    uint32_t end = page + (uint32_t)a->config.node_pages;

    while (page < end) {
        uint32_t order;
        enum us_block_state state = us_block_state(a, page, &order);

        if (state == US_BLOCK_TAIL || !us_block_fits(a, page, order)) {
            c.tiled = false;
            return c;
        }
        if (state == US_BLOCK_FREE) {
            c.free_pages += 1u << order;
            c.kept += us_committed_pages(a, us_page_offset(page),
                                         (uint64_t)US_PAGE_SIZE << order);
        }
        page += 1u << order;
    }
    return c;
}

/*
 * One look. True: nobody was changing pages meanwhile, so the census is right; what the
 * dead had begun is not under way any more.
 */
static bool count_quietly(struct us_arena *a, uint32_t node, struct census *ret,
                          uint64_t *counted)
{
    struct us_node_pages *n = us_node_pages(a, node);
    uint64_t ended = us_load_acquire64(&n->ended);
    uint64_t changes = us_load_acquire64(&n->changes);

    *counted = us_load_acquire64(&n->free_pages);
    if (somebody_changes_pages(a)) {
        return false;
    }
    *ret = take_census(a, node);
    if (somebody_changes_pages(a) || us_load_acquire64(&n->ended) != ended) {
        return false;
    }
    return us_cas_acq_rel64(&n->changes, &changes, changes & ~0xffffffffULL);
}

/* Somebody may have died since the blocks of the dead were mended. */
static bool mend_again(struct us_arena *a, struct us_thread *t, uint32_t node)
{
    uint64_t before = us_load_relaxed64(&a->header->mended_blocks);

    each_block(a, t, node, mend_block);
    return us_load_relaxed64(&a->header->mended_blocks) != before;
}

/* The difference is added: others may be changing the counter again by now. */
static bool count_node(struct us_arena *a, struct us_thread *t, uint32_t node,
                       uint64_t *kept)
{
    struct us_node_pages *n = us_node_pages(a, node);
    struct census census;
    uint64_t counted;

    for (int tries = 0; tries < TRIES_MAX; tries++) {
        if (count_quietly(a, node, &census, &counted)) {
            if (!census.tiled && mend_again(a, t, node)) {
                continue;
            }
            if (!census.tiled) {
                us_store_release32(&a->header->poisoned, 1);
                return true;
            }
            us_fetch_add_relaxed64(&n->free_pages, census.free_pages - counted);
            *kept += census.kept;
            return true;
        }
        if (US_WAIT_POINT()) {
            tries += TRIES_MAX / 4; /* explored: nobody is just slow */
        }
        (void)sched_yield();
    }
    return false;
}

bool us_mend_pages(struct us_arena *a, struct us_thread *t, bool all)
{
    bool counted = true;
    uint64_t kept = 0;

    if (all) {
        us_store_release32(&a->header->pages_suspect, 1);
    }
    for (uint32_t node = 0; node < a->nodes; node++) {
        each_block(a, t, node, mend_block);
    }
    if (us_load_acquire32(&a->header->pages_suspect) == 0) {
        return true;
    }
    for (uint32_t node = 0; node < a->nodes; node++) {
        correct_index(a, node);
        each_block(a, t, node, index_block);
        counted = count_node(a, t, node, &kept) && counted;
    }
    if (counted) {
        us_store_relaxed64(&a->header->kept_pages, kept);
        us_store_release32(&a->header->pages_suspect, 0);
    }
    return counted;
}
