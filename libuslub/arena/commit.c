/* SPDX-License-Identifier: MIT */
/*
 * commit.c - backing memory for the sparse file, page by page, before anybody touches
 * it.
 *
 * One bit per page of the file says "this page is real". fallocate() comes before the
 * bit and the hole comes after it, so a crash in between only leaves memory that nobody
 * counts; the next commit of the same page finds it there. Nobody commits and gives
 * back one page at the same time: the block it lies in has one owner.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "arena/arena.h"

static uint64_t *map_word(const struct us_arena *a, uint64_t page)
{
    return (uint64_t *)us_at(a, a->at.commit_map) + page / 64;
}

/* Sets or clears the bits of pages [start, end). */
static void mark(const struct us_arena *a, uint64_t start, uint64_t end, bool committed)
{
    while (start < end) {
        uint64_t *word = map_word(a, start);
        uint64_t last = (start | 63) + 1 < end ? (start | 63) + 1 : end;
        uint64_t count = last - start;
        uint64_t bits = (count == 64 ? ~0ULL : (1ULL << count) - 1) << (start % 64);

        if (committed) {
            us_fetch_or_acq_rel64(word, bits);
        } else {
            us_fetch_and_acq_rel64(word, ~bits);
        }
        start = last;
    }
}

/* First page at or after `page` (below `end`) whose bit is `want`. */
static uint64_t next_page(const struct us_arena *a, uint64_t page, uint64_t end,
                          bool want)
{
    while (page < end) {
        uint64_t word = us_load_acquire64(map_word(a, page));

        word = (want ? word : ~word) >> (page % 64);
        if (word != 0) {
            page += (uint64_t)__builtin_ctzll(word);
            break;
        }
        page = (page | 63) + 1;
    }
    return page < end ? page : end;
}

uint64_t us_committed_pages(const struct us_arena *a, uint64_t offset, uint64_t bytes)
{
    uint64_t page = offset >> US_PAGE_SHIFT;
    uint64_t end = (offset + bytes + US_PAGE_SIZE - 1) >> US_PAGE_SHIFT;
    uint64_t count = 0;

    while ((page = next_page(a, page, end, true)) < end) {
        uint64_t hole = next_page(a, page, end, false);

        count += hole - page;
        page = hole;
    }
    return count;
}

static us_err commit_failed(const struct us_arena *a, uint64_t bytes)
{
    if (errno == ENOSPC) {
        return us_fail(
            US_ENOMEM,
            "arena '%s': no room for %llu more bytes: %s is full; free space "
            "there, make it larger, or use an arena without a name",
            a->name, (unsigned long long)bytes,
            a->config.anonymous ? "memory" : "/dev/shm");
    }
    return us_fail_errno(
        US_ENOMEM,
        "arena '%s': the system refused %llu more bytes (a memory or file "
        "size limit of this process?)",
        a->name, (unsigned long long)bytes);
}

us_err us_commit(struct us_arena *a, uint64_t offset, uint64_t bytes)
{
    uint64_t page = offset >> US_PAGE_SHIFT;
    uint64_t end = (offset + bytes + US_PAGE_SIZE - 1) >> US_PAGE_SHIFT;

    while ((page = next_page(a, page, end, false)) < end) {
        uint64_t stop = next_page(a, page, end, true);
        us_err err;
        int failed;

        if (stop == page) {
            continue; /* somebody has just committed it: planes are shared by all */
        }
        err = us_limit_ask(a, (stop - page) << US_PAGE_SHIFT);
        if (err != US_OK) {
            return err;
        }
        do {
            failed = fallocate(a->fd, 0, (off_t)(page << US_PAGE_SHIFT),
                               (off_t)((stop - page) << US_PAGE_SHIFT));
        } while (failed != 0 && errno == EINTR);
        if (failed != 0) {
            return commit_failed(a, (stop - page) << US_PAGE_SHIFT);
        }
        mark(a, page, stop, true);
        page = stop;
    }
    return US_OK;
}

/* Is any thread about to read a link inside [start, end)? */
static bool anybody_looks(const struct us_arena *a, uint64_t start, uint64_t end)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high);

    for (uint32_t slot = 0; slot < high && slot < US_THREADS; slot++) {
        const struct us_thread *t = us_thread_at(a, slot);
        uint64_t offset = us_load_acquire64(&t->intent) & US_OFFSET_MASK;

        if (offset >= start && offset < end) {
            return true;
        }
    }
    return false;
}

/*
 * The fast path of an allocation reads the link of an object that may meanwhile have
 * been allocated, freed and its slab given back. It names the object in its intent
 * first and then looks again whether the object is still first on the freelist; the
 * fence in every thread makes sure that either we see that intent, or it sees that the
 * freelist has changed.
 */
void us_uncommit(struct us_arena *a, uint64_t offset, uint64_t bytes)
{
    uint64_t page = offset >> US_PAGE_SHIFT;
    uint64_t end = (offset + bytes) >> US_PAGE_SHIFT;

    if (next_page(a, page, end, true) == end ||
        us_load_relaxed32(&a->header->no_fence) || !us_fence_everywhere() ||
        anybody_looks(a, offset, offset + bytes)) {
        return;
    }
    mark(a, page, end, false);
    if (fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                  (off_t)((end - page) << US_PAGE_SHIFT)) != 0) {
        mark(a, page, end, true); /* still there, and still ours to use */
    }
}
