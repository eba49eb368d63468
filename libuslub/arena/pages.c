/* SPDX-License-Identifier: MIT */
/*
 * pages.c - the buddy system: blocks of 2^order pages, split and merged without locks.
 *
 * Truth is one word per block, at its first page (page_word.h). The bitmaps of free
 * blocks, their hints and the counter of free pages are caches: a bit may be wrong, so
 * whoever follows one looks at the word, and whoever clears one looks again afterwards.
 *
 *   allocate:  FREE(j) -> SPLIT(j); for o = j-1 .. k: upper half := FREE(o), self :=
 * SPLIT(o); self := ALLOC(k).  Without a split: FREE(k) -> ALLOC(k). free:      self :=
 * FREE(k), then merge: left FREE(k) -> MERGE(k), right FREE(k) -> TAIL, left :=
 * FREE(k+1), and again.
 *
 * Choice: the smallest order that has a block, and there the lowest address. It depends
 * on the state alone, so the model makes the same one. A crash leaves SPLIT, MERGE or
 * ALLOC with an owner; what that means is in docs/design/01-arena.md.
 */
#include <sched.h>
#include <string.h>

#include "arena/pages.h"

/*
 * Allocations and frees of blocks say so in their thread's slot and are counted when
 * they end: a reaper that counts pages again knows whether somebody came between. Who
 * sees the counter of free pages changed sees this too, so that one has an order.
 */
static void enter(struct us_thread *t)
{
    us_store_release32(&t->changing, us_load_relaxed32(&t->changing) + 1);
    us_compiler_barrier();
}

static void leave(const struct us_arena *a, struct us_thread *t, uint32_t node)
{
    us_fetch_add_acq_rel64(&us_node_pages(a, node)->ended, 1);
    us_store_release32(&t->changing, us_load_relaxed32(&t->changing) - 1);
}

/* ---- the index of free blocks ---- */

static void index_set(const struct us_arena *a, uint32_t node, uint32_t order,
                      uint32_t page)
{
    uint64_t bit = (page - us_node_start(a, node)) >> order;
    uint64_t *hint = &us_node_pages(a, node)->hint[order];
    uint64_t seen = us_load_relaxed64(hint);

    us_fetch_or_acq_rel64(us_free_bitmap(a, node, order) + bit / 64,
                          1ULL << (bit % 64));
    while (bit / 64 < seen && !us_cas_acq_rel64(hint, &seen, bit / 64)) {
    }
}

static void index_clear(const struct us_arena *a, uint32_t node, uint32_t order,
                        uint32_t page)
{
    uint64_t bit = (page - us_node_start(a, node)) >> order;

    us_fetch_and_acq_rel64(us_free_bitmap(a, node, order) + bit / 64,
                           ~(1ULL << (bit % 64)));
}

static bool word_is(const struct us_arena *a, uint32_t page, enum us_block_state state,
                    uint32_t order, uint64_t *raw)
{
    const struct us_page *p = us_page_at(a, page);
    struct us_page_word word;

    if (p == NULL || !us_block_fits(a, page, order)) {
        return false;
    }
    *raw = us_load_acquire64(&p->word);
    word = us_page_word_read(*raw);
    return word.state == state && word.order == order;
}

/*
 * Makes the bit say what the word says, and looks at the word again: whoever changes
 * one while we are between the two comes by here after us, or we see it.
 */
void us_index_refresh(const struct us_arena *a, uint32_t node, uint32_t order,
                      uint32_t page)
{
    uint64_t raw;

    for (;;) {
        if (word_is(a, page, US_BLOCK_FREE, order, &raw)) {
            index_set(a, node, order, page);
            if (word_is(a, page, US_BLOCK_FREE, order, &raw)) {
                return;
            }
        } else {
            index_clear(a, node, order, page);
            if (!word_is(a, page, US_BLOCK_FREE, order, &raw)) {
                return;
            }
        }
    }
}

/* The bit led to no such block. */
static void index_correct(const struct us_arena *a, uint32_t node, uint32_t order,
                          uint32_t page)
{
    us_change_begin(a, node);
    us_index_refresh(a, node, order, page);
    us_change_end(a, node);
}

/* The first indexed block of `order` from word `*at` on, or 0. */
static uint32_t index_next(const struct us_arena *a, uint32_t node, uint32_t order,
                           uint64_t *at)
{
    uint64_t words = ((a->config.node_pages >> order) + 63) / 64;

    for (; *at < words; (*at)++) {
        uint64_t bits = us_load_acquire64(us_free_bitmap(a, node, order) + *at);

        if (bits != 0) {
            uint64_t bit = *at * 64 + (uint64_t)__builtin_ctzll(bits);

            return us_node_start(a, node) + (uint32_t)(bit << order);
        }
    }
    return 0;
}

/* ---- split and merge ---- */

void us_make_free(struct us_arena *a, uint32_t node, uint32_t page, uint32_t order)
{
    uint64_t *word = &a->pages[page].word;

    us_store_release64(
        word, us_page_word_next(us_load_relaxed64(word), US_BLOCK_FREE, order, 0));
    us_index_refresh(a, node, order, page);
}

/* Merges the free block with its buddy, and the result with its own, as far as it goes.
 */
static void merge_blocks(struct us_arena *a, uint32_t me, uint32_t node, uint32_t page,
                         uint32_t order)
{
    uint32_t start = us_node_start(a, node);

    while (order + 1 < a->at.orders) {
        uint32_t left = start + ((page - start) & ~((2u << order) - 1));
        uint32_t right = left + (1u << order);
        uint64_t left_raw, right_raw;

        if ((uint64_t)(left - start) + (2ULL << order) > a->config.node_pages ||
            !word_is(a, right, US_BLOCK_FREE, order, &right_raw) ||
            !word_is(a, left, US_BLOCK_FREE, order, &left_raw)) {
            return;
        }
        if (!us_cas_acq_rel64(&a->pages[left].word, &left_raw,
                              us_page_word_next(left_raw, US_BLOCK_MERGE, order, me))) {
            return; /* somebody took it */
        }
        if (!us_cas_acq_rel64(&a->pages[right].word, &right_raw,
                              us_page_word_next(right_raw, US_BLOCK_TAIL, 0, 0))) {
            us_make_free(a, node, left, order);
            continue; /* the right one may be free again by now: look again */
        }
        index_clear(a, node, order, left);
        index_clear(a, node, order, right);
        order++;
        page = left;
        us_make_free(a, node, page, order);
    }
}

void us_merge(struct us_arena *a, uint32_t me, uint32_t node, uint32_t page,
              uint32_t order)
{
    us_change_begin(a, node);
    merge_blocks(a, me, node, page, order);
    us_change_end(a, node);
}

static us_err commit_descriptor(struct us_arena *a, uint32_t page)
{
    return us_commit(a, (uint64_t)((char *)(a->pages + page) - a->base),
                     sizeof(struct us_page));
}

/*
 * Cuts the SPLIT block `page` down to `order`, freeing upper halves; ALLOC on success.
 * If the descriptor of a half cannot be had, what is left is free again.
 */
static us_err split(struct us_arena *a, uint32_t me, uint32_t node, uint32_t page,
                    uint32_t from, uint32_t order)
{
    uint64_t *word = &a->pages[page].word;

    while (from > order) {
        uint32_t upper = page + (1u << (from - 1));
        us_err err = commit_descriptor(a, upper);

        if (err != US_OK) {
            us_make_free(a, node, page, from);
            us_merge(a, me, node, page, from);
            return err;
        }
        from--;
        us_make_free(a, node, upper, from);
        us_store_release64(
            word, us_page_word_next(us_load_relaxed64(word), US_BLOCK_SPLIT, from, me));
    }
    us_store_release64(
        word, us_page_word_next(us_load_relaxed64(word), US_BLOCK_ALLOC, order, me));
    return US_OK;
}

/* The free block `page` becomes one of `order` that is ours. False: somebody was
 * faster. */
static bool claim(struct us_arena *a, uint32_t me, uint32_t node, uint32_t page,
                  uint32_t from, uint32_t order, us_err *err)
{
    uint64_t raw;
    bool ours =
        us_page_valid(a, page) && word_is(a, page, US_BLOCK_FREE, from, &raw) &&
        us_cas_acq_rel64(
            &a->pages[page].word, &raw,
            us_page_word_next(raw, from == order ? US_BLOCK_ALLOC : US_BLOCK_SPLIT,
                              from, me));

    *err = US_OK;
    if (ours) {
        index_clear(a, node, from, page);
        if (from != order) {
            *err = split(a, me, node, page, from, order);
        }
    }
    return ours;
}

/* Takes a free block of exactly `from` if there is one, and makes it one of `order`. */
static us_err take_from(struct us_arena *a, uint32_t me, uint32_t node, uint32_t from,
                        uint32_t order, bool thorough, uint32_t *ret)
{
    uint64_t *hint = &us_node_pages(a, node)->hint[from];
    uint64_t at = thorough ? 0 : us_load_relaxed64(hint);
    uint32_t page;
    us_err err = US_ENOMEM;

    while ((page = index_next(a, node, from, &at)) != 0) {
        bool ours;

        if (from != order) {
            us_change_begin(a, node);
        }
        ours = claim(a, me, node, page, from, order, &err);
        if (from != order) {
            us_change_end(a, node);
        }
        if (ours) {
            us_store_relaxed64(hint, at);
            *ret = page;
            return err;
        }
        err = US_ENOMEM;
        index_correct(a, node, from, page);
    }
    us_store_relaxed64(hint, at);
    return err;
}

/* One walk up the orders. *ret 0 and US_ENOMEM: nothing was found. */
static us_err take_once(struct us_arena *a, uint32_t me, uint32_t node, uint32_t order,
                        bool thorough, uint32_t *ret)
{
    us_err err = US_ENOMEM;

    *ret = 0;
    for (uint32_t from = order; from < a->at.orders && *ret == 0; from++) {
        err = take_from(a, me, node, from, order, thorough, ret);
    }
    return err;
}

/* More looks than any living splitter or merger needs; a dead one must not hold us. */
#define LOOKS_MAX 2000

/*
 * The second look trusts no hint. Nothing found is the truth only if no block was being
 * split or merged meanwhile; else there is another look, as long as enough pages are
 * free.
 */
static us_err take(struct us_arena *a, uint32_t me, uint32_t node, uint32_t order,
                   uint32_t *ret)
{
    const struct us_node_pages *n = us_node_pages(a, node);

    for (int look = 0; look < LOOKS_MAX; look++) {
        uint64_t before = us_load_acquire64(&n->changes);
        us_err err = take_once(a, me, node, order, look != 0, ret);

        if (err == US_OK || *ret != 0) {
            return err;
        }
        if (look != 0 &&
            ((us_load_acquire64(&n->changes) == before && (uint32_t)before == 0) ||
             us_load_relaxed64(&n->free_pages) < 1ULL << order)) {
            break;
        }
        if (look > 10) {
            if (US_WAIT_POINT()) {
                look += LOOKS_MAX / 20; /* explored: nobody is just slow */
            }
            (void)sched_yield();
        }
    }
    return US_ENOMEM;
}

/* ---- calls ---- */

/* So many pages are not free and committed any more; the counter never goes below 0. */
static void lower_kept(struct us_arena *a, uint64_t pages)
{
    uint64_t seen = us_load_relaxed64(&a->header->kept_pages);

    while (pages != 0 && !us_cas_acq_rel64(&a->header->kept_pages, &seen,
                                           seen > pages ? seen - pages : 0)) {
    }
}

/* Descriptor and data of a fresh block become real. */
static us_err commit_block(struct us_arena *a, uint32_t page, uint32_t order,
                           uint64_t reach)
{
    uint64_t start = us_page_offset(page), bytes = 1ULL << (order + US_PAGE_SHIFT);
    uint64_t kept = us_committed_pages(a, start, bytes);
    us_err err;

    lower_kept(a, kept);
    reach = (reach + US_PAGE_SIZE - 1) & ~(uint64_t)(US_PAGE_SIZE - 1);
    err = us_commit(a, start, reach);
    if (err == US_OK && reach < bytes) {
        us_uncommit(a, start + reach, bytes - reach);
    }
    return err;
}

static us_err take_and_commit(struct us_arena *a, struct us_thread *t, uint32_t gfp,
                              uint32_t node, uint32_t order, uint64_t reach,
                              struct us_run *ret)
{
    struct us_node_pages *n = us_node_pages(a, node);
    uint64_t pages = 1ULL << order, reserve = a->config.reserve_pages;
    uint64_t free_pages = us_load_relaxed64(&n->free_pages);
    uint32_t me = us_thread_slot(a, t) + 1, page = 0;
    us_err err;

    ret->reserve = free_pages < pages + reserve;
    if (ret->reserve && !(gfp & US_GFP_EMERGENCY)) {
        return US_ENOMEM;
    }
    err = take(a, me, node, order, &page);
    if (err != US_OK) {
        return err;
    }
    us_fetch_add_acq_rel64(&n->free_pages, -pages);
    ret->page = page;
    ret->order = order;
    ret->node = node;
    err = commit_block(a, page, order, reach);
    if (err != US_OK) {
        us_pages_free(a, t, page);
    }
    return err;
}

static us_err alloc_on_node(struct us_arena *a, struct us_thread *t, uint32_t gfp,
                            uint32_t node, uint32_t order, uint64_t reach,
                            struct us_run *ret)
{
    us_err err;

    enter(t);
    err = take_and_commit(a, t, gfp, node, order, reach, ret);
    leave(a, t, node);
    return err;
}

us_err us_pages_alloc(struct us_arena *a, struct us_thread *t, uint32_t gfp, int cpu,
                      int node, uint32_t order, uint64_t reach, struct us_run *ret)
{
    uint32_t first = node >= 0 ? (uint32_t)node : a->config.cpu_node[cpu];
    uint32_t nodes = (gfp & US_GFP_THISNODE) && node >= 0 ? 1 : a->nodes;
    us_err err = us_arena_sound(a);

    if (err != US_OK) {
        return err;
    }
    us_last_clear();
    for (uint32_t i = 0; order < a->at.orders && i < nodes; i++) {
        if (alloc_on_node(a, t, gfp, a->zonelist[first][i], order, reach, ret) ==
            US_OK) {
            return US_OK;
        }
    }
    if (us_last_code() != US_OK) {
        return us_last_code(); /* the system said why */
    }
    return us_fail(
        US_ENOMEM,
        "arena '%s': no free block of %llu KiB on %s; free or shrink something, "
        "or create a larger arena",
        a->name, 4ULL << (order < 40 ? order : 40),
        nodes == 1 && a->nodes > 1 ? "that node" : "any node");
}

void us_pages_publish(struct us_arena *a, uint32_t page, enum us_block_state state)
{
    uint64_t *word = &a->pages[page].word;
    uint64_t raw = us_load_relaxed64(word);

    us_store_release64(word,
                       us_page_word_next(raw, state, us_page_word_read(raw).order, 0));
}

void us_pages_unpublish(struct us_arena *a, struct us_thread *t, uint32_t page)
{
    uint64_t *word = &a->pages[page].word;
    uint64_t raw = us_load_relaxed64(word);

    us_store_release64(word, us_page_word_next(raw, US_BLOCK_ALLOC,
                                               us_page_word_read(raw).order,
                                               us_thread_slot(a, t) + 1));
}

void us_pages_free(struct us_arena *a, struct us_thread *t, uint32_t page)
{
    uint32_t order = us_page_word_read(us_load_relaxed64(&a->pages[page].word)).order;
    uint32_t node = us_page_node(a, page), me = us_thread_slot(a, t) + 1;
    uint64_t start = us_page_offset(page),
             bytes = 1ULL << ((order & 31) + US_PAGE_SHIFT);
    uint64_t committed;

    if (!us_block_fits(a, page, order)) {
        return; /* the word has been overwritten: the block stays with us */
    }
    committed = us_committed_pages(a, start, bytes);
    enter(t);
    if (us_load_relaxed32(&a->keep_all) == 0 &&
        us_load_relaxed64(&a->header->kept_pages) + committed > a->config.keep_pages) {
        us_uncommit(a, start, bytes);
        committed = us_committed_pages(a, start, bytes);
    }
    us_fetch_add_relaxed64(&a->header->kept_pages, committed);
    us_fetch_add_acq_rel64(&us_node_pages(a, node)->free_pages, 1ULL << order);
    us_make_free(a, node, page, order);
    us_merge(a, me, node, page, order);
    leave(a, t, node);
}

us_err us_pages_init(struct us_arena *a)
{
    for (uint32_t node = 0; node < a->nodes; node++) {
        uint64_t left = a->config.node_pages;
        uint32_t page = us_node_start(a, node);

        us_node_pages(a, node)->free_pages = left;
        while (left != 0) {
            uint32_t order = 63u - (uint32_t)__builtin_clzll(left);
            us_err err = commit_descriptor(a, page);

            if (err != US_OK) {
                return err;
            }
            us_make_free(a, node, page, order);
            page += 1u << order;
            left -= 1ULL << order;
        }
    }
    return US_OK;
}

uint32_t us_block_head(const struct us_arena *a, uint32_t page)
{
    uint32_t start;

    if (!us_page_valid(a, page)) {
        return 0;
    }
    start = us_node_start(a, us_page_node(a, page));
    for (uint32_t up = 0; up < a->at.orders; up++) {
        uint32_t head = start + ((page - start) & ~((1u << up) - 1)), order;

        if (us_block_state(a, head, &order) != US_BLOCK_TAIL) {
            return order >= up && us_block_fits(a, head, order) ? head : 0;
        }
    }
    return 0;
}

/* Gives back what a free block has committed, so many pages; somebody may take it
 * first.
 */
static uint64_t trim_block(struct us_arena *a, struct us_thread *t, uint32_t page,
                           uint32_t order)
{
    uint32_t me = us_thread_slot(a, t) + 1, node = us_page_node(a, page);
    uint64_t start = us_page_offset(page), bytes = 1ULL << (order + US_PAGE_SHIFT), raw;
    uint64_t before = us_committed_pages(a, start, bytes), after = before;

    if (before == 0) {
        return 0;
    }
    enter(t);
    us_change_begin(a, node);
    if (word_is(a, page, US_BLOCK_FREE, order, &raw) &&
        us_cas_acq_rel64(&a->pages[page].word, &raw,
                         us_page_word_next(raw, US_BLOCK_ALLOC, order, me))) {
        us_uncommit(a, start, bytes);
        after = us_committed_pages(a, start, bytes);
        lower_kept(a, before - after);
        us_make_free(a, node, page, order);
        merge_blocks(a, me, node, page, order);
    }
    us_change_end(a, node);
    leave(a, t, node);
    return before - after;
}

/* Until no more than `keep` free pages are committed, or nothing more can be had. */
static uint64_t trim(struct us_arena *a, struct us_thread *t, uint64_t keep)
{
    uint64_t given = 0;

    for (uint32_t page = a->first_page;
         page < a->end_page &&
         (keep == 0 || us_load_relaxed64(&a->header->kept_pages) > keep);) {
        uint32_t order;

        if (us_block_state(a, page, &order) == US_BLOCK_TAIL || order >= a->at.orders) {
            page++; /* inside a block that others are changing */
            continue;
        }
        given += trim_block(a, t, page, order);
        page += 1u << order;
    }
    return given;
}

us_err us_arena_trim(us_arena *a, uint64_t *ret)
{
    struct us_thread *t = us_thread_self(a);

    if (t == NULL) {
        return us_last_code();
    }
    *ret = trim(a, t, 0) << US_PAGE_SHIFT;
    return US_OK;
}

void us_pages_keep(struct us_arena *a, struct us_thread *t, bool all)
{
    us_store_relaxed32(&a->keep_all, all);
    if (!all && us_load_relaxed64(&a->header->kept_pages) > a->config.keep_pages) {
        (void)trim(a, t, a->config.keep_pages);
    }
}

us_err us_pages_stat(us_arena *a, uint32_t node, struct us_pages_info *ret)
{
    if (node >= a->nodes) {
        return us_fail(US_EBADARG, "arena '%s': node %u of %u", a->name, node,
                       a->nodes);
    }
    memset(ret, 0, sizeof(*ret));
    ret->pages = a->config.node_pages;
    ret->free_pages = us_load_relaxed64(&us_node_pages(a, node)->free_pages);
    ret->orders = a->at.orders;
    for (uint32_t order = 0; order < a->at.orders; order++) {
        uint64_t words = ((a->config.node_pages >> order) + 63) / 64;

        for (uint64_t i = 0; i < words; i++) {
            uint64_t bits = us_load_relaxed64(us_free_bitmap(a, node, order) + i);

            ret->free[order] += (uint32_t)__builtin_popcountll(bits);
        }
    }
    return US_OK;
}
