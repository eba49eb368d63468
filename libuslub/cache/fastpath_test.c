/* SPDX-License-Identifier: MIT */
/*
 * fastpath_test.c - what the words of the fast path are for: the transaction id against
 * ABA, the intent record, the tag, the wrap of the event counter, the generation.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "cache/names.h"

static us_arena *arena;

static us_cache *make(const char *name, uint64_t size, uint32_t flags)
{
    struct us_cache_config config = US_CACHE_CONFIG_INIT;
    us_cache *s = NULL;
    us_err err;

    config.object_size = size;
    config.flags = flags;
    err = us_cache_create(arena, name, &config, &s);
    if (err != US_OK) {
        (void)fprintf(stderr, "%s\n", us_last_error());
    }
    assert(err == US_OK);
    return s;
}

static uint64_t offset_of(const void *object)
{
    return us_offset(arena, object);
}

/*
 * The classic: T reads (A, next B); meanwhile A and B are allocated and A is freed. The
 * freelist says A again, but B is in use. Without the tid T's swap would hand B out
 * twice.
 */
static void the_tid_stops_aba(void)
{
    us_cache *s = make("aba", 64, 0);
    struct us_kmem_cache_cpu *c = us_cpu(s, 0);
    struct us_pair seen, wanted, without_tid;
    void *warm = us_alloc_on(s, 0, 0, -1), *a, *b;

    assert(us_free_on(s, warm, 0) == US_OK);
    seen.lo = c->freelist.lo;
    seen.hi = c->freelist.hi;
    wanted.lo = us_link_guess(s, seen.lo);
    wanted.hi = us_next_tid(seen.hi);

    a = us_alloc_on(s, 0, 0, -1);
    b = us_alloc_on(s, 0, 0, -1);
    assert(offset_of(a) == seen.lo && offset_of(b) == wanted.lo);
    assert(us_free_on(s, a, 0) == US_OK);
    assert(c->freelist.lo == seen.lo); /* A again ... */

    assert(!us_cas_pair(&c->freelist, seen, wanted)); /* ... but the tid has moved on */

    without_tid = c->freelist;
    assert(without_tid.lo == seen.lo && without_tid.hi != seen.hi);
    assert(us_cas_pair(&c->freelist, without_tid, wanted)); /* what T would have done */
    assert(c->freelist.lo ==
           offset_of(b)); /* B is in use and about to be handed out again */
    us_arena_detach(arena);
}

static void a_tid_names_its_cpu_and_counts_events(void)
{
    us_cache *s = make("tid", 64, 0);

    for (uint32_t cpu = 0; cpu < 4; cpu++) {
        const uint64_t *tid = &us_cpu(s, cpu)->freelist.hi;
        void *object;

        assert(us_tid_to_cpu(*tid) == cpu && us_tid_to_event(*tid) == 0);
        object = us_alloc_on(s, 0, (int)cpu, -1);
        assert(us_free_on(s, object, (int)cpu) == US_OK);
        assert(us_tid_to_cpu(*tid) == cpu && us_tid_to_event(*tid) > 0);
    }
    us_arena_detach(arena);
}

static void the_event_counter_wraps_without_touching_cpu_and_generation(void)
{
    us_cache *s = make("wrap", 64, 0);
    uint64_t last = us_init_tid(s->generation, 3) - US_TID_STEP;

    assert(us_tid_to_event(last) == (1ULL << 39) - 1);
    assert(us_next_tid(last) == us_init_tid(s->generation, 3));
    assert(us_tid_ours(s, last) && us_tid_ours(s, us_next_tid(last)));
    assert(!us_tid_ours(s, us_init_tid(s->generation + 1, 3)));
    us_arena_detach(arena);
}

static void an_owned_object_on_a_freelist_is_not_handed_out(void)
{
    us_cache *s = make("twice", 64, 0);
    void *a = us_alloc_on(s, 0, 0, -1), *b;

    /* Somebody scribbled: the freelist leads to an object that has an owner. */
    us_link_set(s, offset_of(a), us_cpu(s, 0)->freelist.lo);
    us_cpu(s, 0)->freelist.lo = offset_of(a);
    b = us_alloc_on(s, 0, 0, -1);
    assert(b != NULL && b != a);
    us_arena_detach(arena);
}

static void wild_links_are_errors_and_never_addresses(void)
{
    us_cache *s = make("wild", 64, 0);
    static const uint64_t wild[] = {1,          8,          UINT64_MAX,
                                    1ULL << 43, 1ULL << 60, 4096 * 3 + 8};

    for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
        us_cpu(s, 0)->freelist.lo = wild[i];
        (void)us_alloc_on(s, 0, 0, -1);
    }
    for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
        us_cpu(s, 1)->active = wild[i];
        us_cpu(s, 1)->freelist.lo = wild[(i + 1) % 6];
        us_cpu(s, 1)->partial = (uint32_t)wild[i];
        (void)us_alloc_on(s, 0, 1, -1);
        (void)us_cache_flush(s, 1);
    }
    us_arena_detach(arena);
}

static void no_intent_stays_behind(void)
{
    us_cache *s = make("intent", 200, 0);
    struct us_thread *t = us_thread_self(arena);
    void *objects[100];

    for (int i = 0; i < 100; i++) {
        objects[i] = us_alloc_on(s, 0, i % 4, -1);
        assert(t->intent == 0);
    }
    for (int i = 0; i < 100; i++) {
        assert(us_free_on(s, objects[i], (i + 1) % 4) == US_OK && t->intent == 0);
    }
    assert(us_free_on(s, objects[0], 0) != US_OK && t->intent == 0);
    assert(us_alloc_bulk(s, 0, 0, -1, 100, objects) == US_OK && t->intent == 0);
    assert(us_free_bulk(s, 100, objects, 1) == US_OK && t->intent == 0);
    assert(us_cache_shrink(s) == US_OK && t->intent == 0);
    us_arena_detach(arena);
}

static void an_old_handle_knows_that_its_cache_is_gone(void)
{
    us_cache *s = make("mortal", 64, 0);
    void *object = us_alloc(s);

    assert(us_free(s, object) == US_OK);
    assert(us_cache_destroy(arena, "mortal") == US_OK);
    assert(us_alloc(s) == NULL && us_last_code() == US_ENOCACHE);
    us_arena_detach(arena);
}

/* Ids come round again: the old handle must not serve the new cache. */
static void a_reused_id_is_another_cache(void)
{
    us_cache *first = make("reused", 64, 0), *s;
    uint32_t id = first->id;

    assert(us_cache_destroy(arena, "reused") == US_OK);
    do {
        s = make("other", 128, 0);
        if (s->id != id) {
            assert(us_cache_destroy(arena, "other") == US_OK);
        }
    } while (s->id != id);
    assert(s != first && s->generation != first->generation);
    assert(us_alloc(s) != NULL);
    assert(us_alloc(first) == NULL && us_last_code() == US_ENOCACHE);
    us_arena_detach(arena);
}

static void a_move_is_good_for_one_adoption(void)
{
    us_cache *s = make("moved", 64, 0);
    void *object = us_alloc(s);
    uint64_t offset = offset_of(object);
    uint16_t me = us_owner(arena);

    assert(us_adopt(arena, offset, me) == US_ENOTOWNER); /* nobody let go of it */
    assert(us_move(arena, object) == US_OK);
    assert(us_move(arena, object) == US_ENOTOWNER);
    assert(us_free(s, object) == US_ENOTOWNER);
    assert(us_validate(arena, NULL, NULL, NULL) == 0);
    assert(us_adopt(arena, offset, me) == US_OK);
    assert(us_adopt(arena, offset, me) == US_ENOTOWNER);
    assert(us_free(s, object) == US_OK);
    assert(us_adopt(arena, offset, me) == US_ENOTOWNER);
    us_arena_detach(arena);
}

static void hardened_links_are_not_offsets(void)
{
    us_cache *s = make("hard", 64, US_FREELIST_HARDENED);
    void *a = us_alloc_on(s, 0, 0, -1), *b = us_alloc_on(s, 0, 0, -1);
    uint64_t stored;

    assert(us_free_on(s, a, 0) == US_OK && us_free_on(s, b, 0) == US_OK);
    memcpy(&stored, (char *)b + s->offset, sizeof(stored));
    assert(stored != offset_of(a));
    assert(us_link_get(s, offset_of(b)) == offset_of(a));
    us_arena_detach(arena);
}

int main(void)
{
    static void (*const tests[])(void) = {
        the_tid_stops_aba,
        a_tid_names_its_cpu_and_counts_events,
        the_event_counter_wraps_without_touching_cpu_and_generation,
        an_owned_object_on_a_freelist_is_not_handed_out,
        wild_links_are_errors_and_never_addresses,
        no_intent_stays_behind,
        an_old_handle_knows_that_its_cache_is_gone,
        a_reused_id_is_another_cache,
        a_move_is_good_for_one_adoption,
        hardened_links_are_not_offsets,
    };

    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        struct us_arena_config config = {.size = 4 << 20, .cpus = 4, .nodes = 1};
        us_err err = us_arena_create(NULL, &config, &arena);

        assert(err == US_OK);
        tests[i]();
    }
    return 0;
}
