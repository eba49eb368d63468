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

#include "arena/arena.h"

static struct us_node_pages *node_at(const struct us_arena *a, uint32_t node)
{
    return (struct us_node_pages *)us_at(a, a->at.node_pages) + node;
}

static uint64_t *bitmap(const struct us_arena *a, uint32_t node, uint32_t order)
{
    return us_at(a, a->at.bitmap[node][order]);
}

static uint32_t node_start(const struct us_arena *a, uint32_t node)
{
    return a->first_page + (uint32_t)(node * a->config.node_pages);
}

/*
 * Splits, merges and corrections hide a block for a moment. They are counted before and
 * after, so that a search that found nothing knows whether to look again.
 */
static void change_begin(const struct us_arena *a, uint32_t node)
{
    us_fetch_add_acq_rel64(&node_at(a, node)->changes, 1);
}

static void change_end(const struct us_arena *a, uint32_t node)
{
    us_fetch_add_acq_rel64(&node_at(a, node)->changes, (1ULL << 32) - 1);
}

/* ---- the index of free blocks ---- */

static void index_set(const struct us_arena *a, uint32_t node, uint32_t order,
                      uint32_t page)
{
    uint64_t bit = (page - node_start(a, node)) >> order;
    uint64_t *hint = &node_at(a, node)->hint[order];
    uint64_t seen = us_load_relaxed64(hint);

    us_fetch_or_acq_rel64(bitmap(a, node, order) + bit / 64, 1ULL << (bit % 64));
    while (bit / 64 < seen && !us_cas_acq_rel64(hint, &seen, bit / 64)) {
    }
}

static void index_clear(const struct us_arena *a, uint32_t node, uint32_t order,
                        uint32_t page)
{
    uint64_t bit = (page - node_start(a, node)) >> order;

    us_fetch_and_acq_rel64(bitmap(a, node, order) + bit / 64, ~(1ULL << (bit % 64)));
}

static bool word_is(const struct us_arena *a, uint32_t page, enum us_block_state state,
                    uint32_t order, uint64_t *raw)
{
    const struct us_page *p = us_page_at(a, page);
    struct us_page_word word;

    if (p == NULL) {
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
static void index_refresh(const struct us_arena *a, uint32_t node, uint32_t order,
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
    change_begin(a, node);
    index_refresh(a, node, order, page);
    change_end(a, node);
}

/* The first indexed block of `order` from word `*at` on, or 0. */
static uint32_t index_next(const struct us_arena *a, uint32_t node, uint32_t order,
                           uint64_t *at)
{
    uint64_t words = ((a->config.node_pages >> order) + 63) / 64;

    for (; *at < words; (*at)++) {
        uint64_t bits = us_load_acquire64(bitmap(a, node, order) + *at);

        if (bits != 0) {
            uint64_t bit = *at * 64 + (uint64_t)__builtin_ctzll(bits);

            return node_start(a, node) + (uint32_t)(bit << order);
        }
    }
    return 0;
}

/* ---- split and merge ---- */

static void make_free(struct us_arena *a, uint32_t node, uint32_t page, uint32_t order)
{
    uint64_t *word = &a->pages[page].word;

    us_store_release64(
        word, us_page_word_next(us_load_relaxed64(word), US_BLOCK_FREE, order, 0));
    index_refresh(a, node, order, page);
}

/* Merges the free block with its buddy, and the result with its own, as far as it goes.
 */
static void merge_blocks(struct us_arena *a, uint32_t me, uint32_t node, uint32_t page,
                         uint32_t order)
{
    uint32_t start = node_start(a, node);

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
            make_free(a, node, left, order);
            continue; /* the right one may be free again by now: look again */
        }
        index_clear(a, node, order, left);
        index_clear(a, node, order, right);
        order++;
        page = left;
        make_free(a, node, page, order);
    }
}

static void merge(struct us_arena *a, uint32_t me, uint32_t node, uint32_t page,
                  uint32_t order)
{
    change_begin(a, node);
    merge_blocks(a, me, node, page, order);
    change_end(a, node);
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
            make_free(a, node, page, from);
            merge(a, me, node, page, from);
            return err;
        }
        from--;
        make_free(a, node, upper, from);
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
    uint64_t *hint = &node_at(a, node)->hint[from];
    uint64_t at = thorough ? 0 : us_load_relaxed64(hint);
    uint32_t page;
    us_err err = US_ENOMEM;

    while ((page = index_next(a, node, from, &at)) != 0) {
        bool ours;

        if (from != order) {
            change_begin(a, node);
        }
        ours = claim(a, me, node, page, from, order, &err);
        if (from != order) {
            change_end(a, node);
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
    const struct us_node_pages *n = node_at(a, node);

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

static us_err alloc_on_node(struct us_arena *a, struct us_thread *t, uint32_t gfp,
                            uint32_t node, uint32_t order, uint64_t reach,
                            struct us_run *ret)
{
    struct us_node_pages *n = node_at(a, node);
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
    us_fetch_add_relaxed64(&n->free_pages, -pages);
    ret->page = page;
    ret->order = order;
    ret->node = node;
    err = commit_block(a, page, order, reach);
    if (err != US_OK) {
        us_pages_free(a, t, page);
    }
    return err;
}

us_err us_pages_alloc(struct us_arena *a, struct us_thread *t, uint32_t gfp, int cpu,
                      int node, uint32_t order, uint64_t reach, struct us_run *ret)
{
    uint32_t first = node >= 0 ? (uint32_t)node : a->config.cpu_node[cpu];
    uint32_t nodes = (gfp & US_GFP_THISNODE) && node >= 0 ? 1 : a->nodes;

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

    US_ASSERT(us_page_word_read(raw).state == US_BLOCK_ALLOC);
    us_store_release64(word,
                       us_page_word_next(raw, state, us_page_word_read(raw).order, 0));
}

void us_pages_free(struct us_arena *a, struct us_thread *t, uint32_t page)
{
    uint64_t *word = &a->pages[page].word;
    uint64_t raw = us_load_relaxed64(word);
    uint32_t order = us_page_word_read(raw).order;
    uint32_t node = us_page_node(a, page), me = us_thread_slot(a, t) + 1;
    uint64_t start = us_page_offset(page), bytes = 1ULL << (order + US_PAGE_SHIFT);
    uint64_t committed = us_committed_pages(a, start, bytes);

    us_store_release64(word, us_page_word_next(raw, US_BLOCK_ALLOC, order, me));
    if (us_load_relaxed64(&a->header->kept_pages) + committed > a->config.keep_pages) {
        us_uncommit(a, start, bytes);
        committed = us_committed_pages(a, start, bytes);
    }
    us_fetch_add_relaxed64(&a->header->kept_pages, committed);
    us_fetch_add_relaxed64(&node_at(a, node)->free_pages, 1ULL << order);
    make_free(a, node, page, order);
    merge(a, me, node, page, order);
}

us_err us_pages_init(struct us_arena *a)
{
    for (uint32_t node = 0; node < a->nodes; node++) {
        uint64_t left = a->config.node_pages;
        uint32_t page = node_start(a, node);

        node_at(a, node)->free_pages = left;
        while (left != 0) {
            uint32_t order = 63u - (uint32_t)__builtin_clzll(left);
            us_err err = commit_descriptor(a, page);

            if (err != US_OK) {
                return err;
            }
            make_free(a, node, page, order);
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
    start = node_start(a, us_page_node(a, page));
    for (uint32_t up = 0; up < a->at.orders; up++) {
        uint32_t head = start + ((page - start) & ~((1u << up) - 1)), order;

        if (us_block_state(a, head, &order) != US_BLOCK_TAIL) {
            return order >= up && order < a->at.orders ? head : 0;
        }
    }
    return 0;
}

/* Gives back what a free block has committed; somebody may take it first. */
static void trim_block(struct us_arena *a, uint32_t me, uint32_t page, uint32_t order)
{
    uint64_t bytes = 1ULL << (order + US_PAGE_SHIFT), raw;
    uint32_t node = us_page_node(a, page);

    if (us_committed_pages(a, us_page_offset(page), bytes) == 0) {
        return;
    }
    change_begin(a, node);
    if (word_is(a, page, US_BLOCK_FREE, order, &raw) &&
        us_cas_acq_rel64(&a->pages[page].word, &raw,
                         us_page_word_next(raw, US_BLOCK_ALLOC, order, me))) {
        us_uncommit(a, us_page_offset(page), bytes);
        make_free(a, node, page, order);
        merge_blocks(a, me, node, page, order);
    }
    change_end(a, node);
}

us_err us_arena_trim(us_arena *a, uint64_t *ret)
{
    struct us_thread *t = us_thread_self(a);
    uint64_t before = us_committed_pages(a, a->data_start, a->data_bytes), after;

    if (t == NULL) {
        return us_last_code();
    }
    for (uint32_t page = a->first_page; page < a->end_page;) {
        uint32_t order;

        if (us_block_state(a, page, &order) == US_BLOCK_TAIL || order >= a->at.orders) {
            page++; /* inside a block that others are changing */
            continue;
        }
        trim_block(a, us_thread_slot(a, t) + 1, page, order);
        page += 1u << order;
    }
    after = us_committed_pages(a, a->data_start, a->data_bytes);
    *ret = before > after ? (before - after) << US_PAGE_SHIFT : 0;
    lower_kept(a, *ret >> US_PAGE_SHIFT);
    return US_OK;
}

us_err us_pages_stat(us_arena *a, uint32_t node, struct us_pages_info *ret)
{
    if (node >= a->nodes) {
        return us_fail(US_EBADARG, "arena '%s': node %u of %u", a->name, node,
                       a->nodes);
    }
    memset(ret, 0, sizeof(*ret));
    ret->pages = a->config.node_pages;
    ret->free_pages = us_load_relaxed64(&node_at(a, node)->free_pages);
    ret->orders = a->at.orders;
    for (uint32_t order = 0; order < a->at.orders; order++) {
        uint64_t words = ((a->config.node_pages >> order) + 63) / 64;

        for (uint64_t i = 0; i < words; i++) {
            uint64_t bits = us_load_relaxed64(bitmap(a, node, order) + i);

            ret->free[order] += (uint32_t)__builtin_popcountll(bits);
        }
    }
    return US_OK;
}
