/* SPDX-License-Identifier: MIT */
/*
 * wreck.c - what dead threads were in the middle of, found and mended: pages, names,
 * caches, in this order (docs/design/05-recovery.md).
 *
 * A thread is dead here when its slot says so: the reaper marks the threads of the
 * participants that he has locked, and a process those of its own that vanished.
 */
#include <string.h>

#include "cache/names.h"
#include "share/share.h"

/* The cache of the object that a dead thread was popping or pushing is in doubt, and
 * that of a slab which it was publishing without a lock. */
static void suspect(struct us_arena *a, const struct us_thread *t, uint64_t intent)
{
    uint64_t op = intent >> US_OP_SHIFT;
    uint32_t page, id;

    if (op == US_OP_ALLOC_SLOW && (intent & US_OFFSET_MASK) != 0) {
        id = us_load_relaxed32(&t->cache);
    } else if (op == US_OP_ALLOC || op == US_OP_FREE || op == US_OP_ALLOC_BULK ||
               op == US_OP_FREE_BULK) {
        page = us_block_head(a, (uint32_t)((intent & US_OFFSET_MASK) >> US_PAGE_SHIFT));
        id = page == 0 ? 0 : us_load_relaxed32(&a->pages[page].cache);
    } else {
        return;
    }
    if (us_id_valid(a, id)) {
        us_store_release32(&us_cache_shared(a, id)->suspect, 1);
    }
}

void us_lost_look(struct us_arena *a, struct us_lost *ret)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high);

    memset(ret, 0, sizeof(*ret));
    for (uint32_t i = 0; i < high && i < US_THREADS; i++) {
        uint32_t state = us_load_acquire32(&us_thread_at(a, i)->state);

        ret->slots[i / 64] |= (uint64_t)((state & US_THREAD_DEAD) != 0) << i % 64;
    }
}

bool us_lost_before(const struct us_lost *lost, uint32_t slot)
{
    return lost->slots[slot / 64] >> slot % 64 & 1;
}

/* What dead threads have left to be mended. */
struct wreck {
    uint32_t threads; /* dead */
    uint32_t inside;  /* of those, in the middle of something */
    bool pages;       /* of those, changing pages */
};

static struct wreck look_for_wrecks(struct us_arena *a)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high);
    struct wreck w = {0};

    for (uint32_t i = 0; i < high && i < US_THREADS; i++) {
        const struct us_thread *t = us_thread_at(a, i);
        uint64_t intent = us_load_acquire64(&t->intent);

        if (!(us_load_acquire32(&t->state) & US_THREAD_DEAD)) {
            continue;
        }
        w.threads++;
        w.inside += us_load_relaxed32(&t->locks) != 0 ||
                    us_load_relaxed32(&t->changing) != 0 ||
                    (intent != 0 && intent >> US_OP_SHIFT < US_OP_ADOPT);
        w.pages = w.pages || us_load_relaxed32(&t->changing) != 0;
        suspect(a, t, intent);
    }
    return w;
}

static bool mend_registry(struct us_arena *a, struct us_thread *t)
{
    uint32_t *lock = &a->header->cache_lock;
    uint32_t holder = us_lock_holder(us_load_acquire32(lock));
    bool mended;

    if (holder == 0 || !us_thread_dead(a, holder - 1)) {
        return true;
    }
    if (us_lock_inherit(a, t, lock) != US_OK) {
        return false;
    }
    us_intent_begin(t, US_OP_CACHE, 0);
    mended = us_mend_registry(a, t);
    us_intent_end(t);
    us_unlock(t, lock);
    return mended;
}

static bool mend_caches(struct us_arena *a, struct us_thread *t, struct us_reaped *ret)
{
    uint32_t high = us_load_relaxed32(&a->header->cache_high);
    bool all = true;

    for (uint32_t id = 1; id <= high && id <= a->config.caches_max; id++) {
        struct us_kmem_cache *s = us_cache_shared(a, id);
        enum us_mended mended;

        if (us_load_acquire32(&s->state) == US_CACHE_FREE ||
            (us_load_acquire32(&s->suspect) == 0 && !us_cache_orphaned(a, id))) {
            continue;
        }
        us_store_release32(&s->suspect, 1);
        mended = us_mend_cache(a, t, id);
        all = all && mended != US_MENDED_NOT;
        ret->caches += mended != US_MENDED_NOT;
        ret->doubtful += mended != US_MENDED;
    }
    return all;
}

/* Every path is slow from now on, and every slow path looks. */
static void stop_all(struct us_arena *a)
{
    uint32_t high = us_load_relaxed32(&a->header->cache_high);

    for (uint32_t id = 1; id <= high && id <= a->config.caches_max; id++) {
        struct us_kmem_cache_cpu *c = (void *)(us_cache_shared(a, id) + 1);

        for (uint32_t cpu = 0; cpu < a->cpus; cpu++) {
            (void)us_cpu_detach(c + cpu);
        }
    }
}

bool us_mend(struct us_arena *a, struct us_thread *t, struct us_reaped *ret)
{
    struct wreck w = look_for_wrecks(a);
    bool mended = true;

    if (w.threads != 0 || us_load_relaxed32(&a->header->pages_suspect) != 0) {
        mended = us_mend_pages(a, t, w.pages);
    }
    if (us_arena_sound(a) != US_OK) {
        stop_all(a);
        return false;
    }
    mended = mend_registry(a, t) && mended;
    mended = mend_caches(a, t, ret) && mended;
    if (mended) {
        us_fetch_add_relaxed32(&a->header->reaped_inside, w.inside);
    }
    return mended;
}
