/* SPDX-License-Identifier: MIT */
/* names.c - see names.h. */
#include "cache/names.h"

#include <string.h>
#include <unistd.h>

#define REPAIR_TRIES 100 /* of a millisecond */

struct us_kmem_cache *us_cache_shared(const struct us_arena *a, uint32_t id)
{
    return (struct us_kmem_cache *)us_at(a, a->at.caches + (uint64_t)(id - 1) *
                                                               a->at.cache_stride);
}

struct us_name *us_name_at(const struct us_arena *a, uint32_t entry)
{
    return (struct us_name *)us_at(a, a->at.names) + (entry - 1);
}

bool us_id_valid(const struct us_arena *a, uint32_t id)
{
    return id >= 1 && id <= a->config.caches_max &&
           id <= us_load_relaxed32(&a->header->cache_high);
}

bool us_name_valid(const struct us_arena *a, uint32_t entry)
{
    return entry >= 1 && entry <= a->config.caches_max * 2 &&
           entry <= us_load_relaxed32(&a->header->name_high);
}

us_err us_damaged(const struct us_arena *a, const char *what)
{
    return us_fail(US_ECORRUPT, "arena '%s': %s is damaged; recreate the arena",
                   a->name, what);
}

static uint64_t hash_bytes(const void *data, uint64_t size)
{
    const unsigned char *bytes = data;
    uint64_t hash = 0xcbf29ce484222325ULL;

    for (uint64_t i = 0; i < size; i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3ULL;
    }
    return hash;
}

uint32_t *us_name_bucket(const struct us_arena *a, const char *name)
{
    uint64_t hash = hash_bytes(name, strlen(name));

    return (uint32_t *)us_at(a, a->at.buckets) +
           ((hash ^ hash >> 32) & a->at.bucket_mask);
}

/* Entry of a name, 0 if there is none. US_ECORRUPT if the chain is no chain. */
us_err us_name_find(const struct us_arena *a, const char *name, uint32_t *ret)
{
    uint32_t steps = a->config.caches_max * 2;

    for (*ret = us_load_relaxed32(us_name_bucket(a, name)); *ret != 0;
         *ret = us_load_relaxed32(&us_name_at(a, *ret)->hash_next)) {
        if (!us_name_valid(a, *ret) || steps-- == 0) {
            return us_damaged(a, "the table of cache names");
        }
        if (strncmp(us_name_at(a, *ret)->name, name, US_NAME_MAX + 1) == 0) {
            return us_id_valid(a, us_name_at(a, *ret)->cache)
                       ? US_OK
                       : us_damaged(a, "the table of cache names");
        }
    }
    return US_OK;
}

us_err us_name_check(const char *name)
{
    size_t length = name == NULL ? 0 : strnlen(name, US_NAME_MAX + 1);

    if (length == 0 || length > US_NAME_MAX) {
        return us_fail(US_EBADNAME, "cache name of %s bytes: 1 to %d are allowed",
                       length == 0 ? "0" : "too many", US_NAME_MAX);
    }
    for (size_t i = 0; i < length; i++) {
        if (name[i] == '/' || (unsigned char)name[i] <= 0x20 || name[i] == 0x7f) {
            return us_fail(US_EBADNAME,
                           "cache name has byte 0x%02x at %zu: slashes, spaces "
                           "and control characters are not allowed",
                           (unsigned char)name[i], i);
        }
    }
    return US_OK;
}

/* What was asked for under a name, to recognise the same request later. */
static void describe(const struct us_cache_config *config, struct us_name *name)
{
    name->object_size = config->object_size;
    name->align = config->align;
    name->flags = config->flags;
    name->order = config->order;
    name->min_partial = config->min_partial;
    name->cpu_partial = config->cpu_partial;
    name->useroffset = config->useroffset;
    name->usersize = config->usersize;
    name->defrag_ratio = config->defrag_ratio;
    name->image_hash = config->image != NULL
                           ? hash_bytes(config->image, config->object_size)
                       : config->ctor != NULL ? 1
                                              : 0;
}

us_err us_name_compare(const struct us_name *have, const struct us_cache_config *config)
{
    struct us_name want;

    memset(&want, 0, sizeof(want));
    describe(config, &want);
    if (have->object_size == want.object_size && have->align == want.align &&
        have->flags == want.flags && have->order == want.order &&
        have->min_partial == want.min_partial &&
        have->cpu_partial == want.cpu_partial && have->useroffset == want.useroffset &&
        have->usersize == want.usersize && have->defrag_ratio == want.defrag_ratio &&
        have->image_hash == want.image_hash) {
        return US_OK;
    }
    return us_fail(
        US_ECACHEEXISTS,
        "cache '%.63s' exists with other parameters: object size %llu, align %u, flags "
        "0x%x, order %d, min_partial %d, cpu_partial %d%s; asked for: %llu, %u, "
        "0x%x, %d, %d, %d%s; use another name or the same parameters",
        have->name, (unsigned long long)have->object_size, have->align, have->flags,
        have->order, have->min_partial, have->cpu_partial,
        have->image_hash ? ", with constructor" : "",
        (unsigned long long)want.object_size, want.align, want.flags, want.order,
        want.min_partial, want.cpu_partial,
        want.image_hash ? ", with constructor" : "");
}

/* A free name entry, committed; not yet in a bucket. */
us_err us_name_new(struct us_arena *a, uint32_t *ret)
{
    uint32_t high = a->header->name_high, most = a->config.caches_max * 2;
    us_err err;

    high = high < most ? high : most;
    *ret = 0;
    if (high < a->config.caches_max * 2) {
        *ret = high + 1;
    }
    for (uint32_t entry = 1; *ret == 0 && entry <= high; entry++) {
        if (us_name_at(a, entry)->cache == 0) {
            *ret = entry;
        }
    }
    if (*ret == 0) {
        return us_fail(US_ELIMIT,
                       "arena '%s': all %u names of caches are taken; destroy some, "
                       "or create a larger arena",
                       a->name, a->config.caches_max * 2);
    }
    err = us_commit(a, us_offset(a, us_name_at(a, *ret)), sizeof(struct us_name));
    if (err == US_OK && *ret > high) {
        us_store_release32(&a->header->name_high, *ret);
    }
    return err;
}

/* The name leads to cache `id` from now on. */
void us_name_enter(struct us_arena *a, uint32_t entry, const char *text, uint32_t id,
                   const struct us_cache_config *config)
{
    struct us_name *name = us_name_at(a, entry);
    uint32_t *bucket = us_name_bucket(a, text);

    memset(name, 0, sizeof(*name));
    describe(config, name);
    memcpy(name->name, text, strlen(text) + 1);
    us_store_relaxed64(&a->header->births, a->header->births + 1);
    name->birth = a->header->births;
    us_store_relaxed32(&name->hash_next, us_load_relaxed32(bucket));
    us_store_release32(&name->cache, id); /* now it is a name; the rest can be found */
    us_store_release32(bucket, entry);
}

void us_name_remove(struct us_arena *a, uint32_t entry)
{
    struct us_name *name = us_name_at(a, entry);
    char text[US_NAME_MAX + 1] = "";
    uint32_t *link, at, steps = a->config.caches_max * 2;

    memcpy(text, name->name, US_NAME_MAX);
    link = us_name_bucket(a, text);
    while (at = us_load_relaxed32(link), /* once: it is checked, then followed */
           us_name_valid(a, at) && at != entry && steps-- != 0) {
        link = &us_name_at(a, at)->hash_next;
    }
    if (at == entry) {
        us_store_release32(link, name->hash_next);
    }
    us_store_release32(&name->cache, 0);
}

/* The oldest name that leads to `id`, 0 if none is left. */
uint32_t us_name_oldest(const struct us_arena *a, uint32_t id, uint64_t after)
{
    uint32_t found = 0;

    for (uint32_t entry = 1; us_name_valid(a, entry); entry++) {
        const struct us_name *name = us_name_at(a, entry);

        if (name->cache == id && name->birth > after &&
            (found == 0 || name->birth < us_name_at(a, found)->birth)) {
            found = entry;
        }
    }
    return found;
}

us_err us_cache_aliases(us_cache *s, bool (*fn)(const char *, void *), void *arg)
{
    struct us_arena *a = s->arena;
    uint64_t after = 0;

    for (;;) {
        char name[US_NAME_MAX + 1] = "";
        struct us_thread *t;
        uint32_t entry, own;
        us_err err = us_lock_caches(a, &t);

        if (err != US_OK) {
            return err;
        }
        own = s->shared->name;
        entry = us_name_oldest(a, s->id, after);
        if (entry != 0) {
            after = us_name_at(a, entry)->birth;
            memcpy(name, us_name_at(a, entry)->name, US_NAME_MAX);
        }
        us_unlock_caches(a, t);
        if (entry == 0 || (entry != own && !fn(name, arg))) {
            return US_OK;
        }
    }
}

us_err us_registry_hold(struct us_arena *a, struct us_thread *t)
{
    us_err err = us_lock_patiently(a, t, &a->header->cache_lock);

    /* Somebody else may be at the repair, and it may have more to do. */
    for (int tries = 0; err == US_EOWNERDEAD && tries < REPAIR_TRIES; tries++) {
        if (tries != 0) {
            (void)usleep(1000);
        }
        us_reap_soon(a);
        err = us_lock_patiently(a, t, &a->header->cache_lock);
    }
    return err != US_EOWNERDEAD
               ? err
               : us_fail(US_ELOCKED,
                         "arena '%s': who held the names of caches is dead, and the "
                         "repair has to wait for somebody; see `uslub doctor`",
                         a->name);
}

us_err us_lock_caches(struct us_arena *a, struct us_thread **t)
{
    us_err err;

    *t = us_thread_self(a);
    if (*t == NULL) {
        return us_last_code();
    }
    err = us_arena_sound(a);
    if (err == US_OK) {
        err = us_registry_hold(a, *t);
    }
    if (err == US_OK) {
        us_intent_begin(*t, US_OP_CACHE, 0);
    }
    return err;
}

void us_unlock_caches(struct us_arena *a, struct us_thread *t)
{
    us_intent_end(t);
    us_unlock(t, &a->header->cache_lock);
}

uint32_t us_cache_brief(us_cache *s, char name[US_NAME_MAX + 1])
{
    const struct us_arena *a = s->arena;
    uint32_t entry = us_load_relaxed32(&s->shared->name);

    name[0] = '\0';
    if (us_name_valid(a, entry)) {
        memcpy(name, us_name_at(a, entry)->name, US_NAME_MAX);
        name[US_NAME_MAX] = '\0';
    }
    return s->flags;
}
