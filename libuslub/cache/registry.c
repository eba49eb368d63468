/* SPDX-License-Identifier: MIT */
/*
 * registry.c - names and the list of caches after a death: whoever held cache_lock may
 * have been anywhere in a creation or a destruction.
 *
 * Truth is the state of each cache and, in each name, the cache that it leads to. A
 * creation has happened when the state is LIVE, a destruction when it is FREE.
 */
#include <stdlib.h>
#include <string.h>

#include "cache/names.h"

/* A cache or a name, by the time of its birth. */
struct born {
    uint64_t birth;
    uint32_t number;
};

static int by_birth(const void *left, const void *right)
{
    const struct born *l = left, *r = right;

    return l->birth < r->birth ? -1 : l->birth > r->birth;
}

static bool live(const struct us_arena *a, uint32_t id)
{
    return us_id_valid(a, id) &&
           us_load_acquire32(&us_cache_shared(a, id)->state) == US_CACHE_LIVE;
}

/* Destructions that were under way have not happened; their slots are flushed. */
static void revive(const struct us_arena *a)
{
    for (uint32_t id = 1; us_id_valid(a, id); id++) {
        struct us_kmem_cache *s = us_cache_shared(a, id);

        if (us_load_acquire32(&s->state) == US_CACHE_DYING) {
            us_store_release32(&s->state, US_CACHE_LIVE);
        }
        us_store_relaxed32((uint32_t *)&s->refcount, 0);
    }
}

static void enter_name(const struct us_arena *a, uint32_t entry)
{
    struct us_name *name = us_name_at(a, entry);
    uint32_t id = us_load_relaxed32(&name->cache), own;
    struct us_kmem_cache *s = us_cache_shared(a, id);
    char text[US_NAME_MAX + 1] = "";
    uint32_t *bucket;

    if (!us_id_valid(a, id)) {
        return; /* it was, a moment ago */
    }
    memcpy(text, name->name, US_NAME_MAX);
    bucket = us_name_bucket(a, text);
    us_store_relaxed32(&name->hash_next, us_load_relaxed32(bucket));
    us_store_release32(bucket, entry);
    us_store_relaxed32((uint32_t *)&s->refcount, (uint32_t)s->refcount + 1);
    own = us_load_relaxed32(&s->name);
    if (!us_name_valid(a, own) || us_name_at(a, own)->cache != id) {
        us_store_relaxed32(&s->name, entry); /* the oldest: they come in that order */
    }
}

static void mend_names(const struct us_arena *a, struct born *born)
{
    size_t count = 0;

    for (uint32_t i = 0; i <= a->at.bucket_mask; i++) {
        us_store_relaxed32((uint32_t *)us_at(a, a->at.buckets) + i, 0);
    }
    for (uint32_t entry = 1; us_name_valid(a, entry); entry++) {
        struct us_name *name = us_name_at(a, entry);

        name->name[US_NAME_MAX] = '\0';
        if (live(a, us_load_relaxed32(&name->cache))) {
            born[count++] = (struct born){name->birth, entry};
        } else {
            us_store_relaxed32(&name->cache, 0);
        }
    }
    qsort(born, count, sizeof(*born), by_birth);
    for (size_t i = 0; i < count; i++) {
        enter_name(a, born[i].number);
    }
}

static void mend_list(struct us_arena *a, struct born *born)
{
    struct us_header *h = a->header;
    size_t count = 0;

    for (uint32_t id = 1; us_id_valid(a, id); id++) {
        if (live(a, id)) {
            born[count++] = (struct born){us_cache_shared(a, id)->birth, id};
        }
    }
    qsort(born, count, sizeof(*born), by_birth);
    for (size_t i = 0; i < count; i++) {
        struct us_kmem_cache *s = us_cache_shared(a, born[i].number);

        us_store_relaxed32(&s->prev, i == 0 ? 0 : born[i - 1].number);
        us_store_relaxed32(&s->next, i + 1 == count ? 0 : born[i + 1].number);
    }
    us_store_relaxed32(&h->cache_head, count == 0 ? 0 : born[0].number);
    us_store_relaxed32(&h->cache_tail, count == 0 ? 0 : born[count - 1].number);
    us_store_relaxed32(&h->cache_count, (uint32_t)count);
}

static bool is_table(const struct us_arena *a, uint64_t offset)
{
    for (uint32_t id = 1; us_id_valid(a, id); id++) {
        const struct us_kmem_cache *s = us_cache_shared(a, id);

        if (live(a, id) && (s->image == offset || s->shuffle == offset)) {
            return true;
        }
    }
    return false;
}

/* Tables of caches that did not come to life, or are gone. */
static void free_orphans(struct us_arena *a, struct us_thread *t)
{
    enum us_block_state state;

    for (uint32_t page = a->first_page, order; page < a->end_page;
         page += us_block_step(a, state, order)) {
        state = us_block_state(a, page, &order);
        if (state == US_BLOCK_META && !is_table(a, us_page_offset(page))) {
            us_pages_unpublish(a, t, page);
            us_pages_free(a, t, page);
            us_fetch_add_relaxed64(&a->header->mended_blocks, 1);
        }
    }
}

bool us_mend_registry(struct us_arena *a, struct us_thread *t)
{
    size_t most = (size_t)a->config.caches_max * 2 + 1;
    struct born *born = calloc(most, sizeof(*born));

    if (born == NULL) {
        return false;
    }
    revive(a);
    mend_names(a, born);
    mend_list(a, born);
    free_orphans(a, t);
    free(born);
    return true;
}
