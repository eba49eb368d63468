/* SPDX-License-Identifier: MIT */
/*
 * validate_test.c - every invariant of validate.c has its broken twin: one word of a
 * sound arena is changed, and the finding must name that invariant.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "share/share.h"

#define PER_SLAB 64

static us_arena *arena;
static us_cache *s;
static void *objects[6 * PER_SLAB];

/* CPU 0 has slab 5; its chain slab 0; node 0 lists slab 1 and slab 2; the others are
 * full. */
static void make_sound_arena(void)
{
    struct us_arena_config config = {.size = 4 << 20, .cpus = 2, .nodes = 1};
    struct us_cache_config cache = US_CACHE_CONFIG_INIT;
    us_err err = us_arena_create(NULL, &config, &arena);

    cache.object_size = 64;
    assert(err == US_OK);
    err = us_cache_create(arena, "twin", &cache, &s);
    assert(err == US_OK);
    for (int i = 0; i < 6 * PER_SLAB; i++) {
        objects[i] = us_alloc_on(s, 0, 0, -1);
        assert(objects[i] != NULL);
    }
    assert(us_free_on(s, objects[1 * PER_SLAB], 0) == US_OK);
    assert(us_free_on(s, objects[2 * PER_SLAB], 0) == US_OK);
    assert(us_cache_flush_chain(s, 0) == US_OK);
    assert(us_free_on(s, objects[0], 0) == US_OK);
    assert(us_free_on(s, objects[6 * PER_SLAB - 1], 0) == US_OK);
}

static struct us_page *slab(int number)
{
    uint64_t offset = us_offset(arena, objects[number * PER_SLAB + 1]);

    return arena->pages + (offset >> US_PAGE_SHIFT);
}

static void seek(const char *finding, void *arg)
{
    const char **wanted = arg;

    if (*wanted != NULL && strstr(finding, *wanted) != NULL) {
        *wanted = NULL;
    }
}

static void expect_finding(const char *name)
{
    const char *wanted = name;

    if (us_validate(arena, NULL, seek, &wanted) == 0 || wanted != NULL) {
        (void)fprintf(stderr, "validate: the broken twin of %s was not found\n", name);
        assert(false);
    }
    us_arena_detach(arena);
}

static void a_sound_arena_has_no_findings(void)
{
    make_sound_arena();
    assert(us_validate(arena, NULL, NULL, NULL) == 0);
    us_arena_detach(arena);
}

static void v1_a_slab_in_two_places(void)
{
    make_sound_arena();
    us_cpu(s, 1)->partial = us_cpu(s, 0)->partial;
    expect_finding("(V1)");
}

static void v2_inuse_is_off_by_one(void)
{
    make_sound_arena();
    slab(1)->slab.hi++;
    expect_finding("(V2)");
}

static void v3_an_owner_is_forgotten(void)
{
    make_sound_arena();
    *us_tag(s, us_offset(arena, objects[PER_SLAB + 7])) = 0;
    expect_finding("(V3)");
}

static void v4_a_free_object_has_an_owner(void)
{
    make_sound_arena();
    *us_tag(s, us_offset(arena, objects[PER_SLAB])) = us_owner(arena);
    expect_finding("(V4)");
}

static void v4_an_object_is_free_twice(void)
{
    uint64_t twice;

    make_sound_arena();
    twice = us_offset(arena, objects[6 * PER_SLAB - 1]);
    slab(5)->slab.lo = twice; /* it is on the CPU's freelist too */
    us_link_set(s, twice, 0);
    expect_finding("(V4)");
}

static void v5_a_listed_slab_is_frozen(void)
{
    make_sound_arena();
    slab(1)->slab.hi |= 1ULL << 31;
    expect_finding("(V5)");
}

static void v6_a_slab_with_a_free_object_is_nowhere(void)
{
    make_sound_arena();
    us_cpu(s, 0)->partial = 0;
    expect_finding("(V6)");
}

static void v7_a_counter_is_wrong(void)
{
    make_sound_arena();
    us_node(s, 0)->nr_slabs++;
    expect_finding("(V7)");
    make_sound_arena();
    us_node(s, 0)->nr_partial++;
    expect_finding("(V7)");
}

static void v8_a_list_does_not_link_back(void)
{
    make_sound_arena();
    slab(1)->prev = slab(2)->prev = 0;
    expect_finding("(V8)");
    make_sound_arena();
    slab(0)->chain_count = 7;
    expect_finding("(V8)");
}

static void v9_the_page_index_is_wrong(void)
{
    make_sound_arena();
    *(uint64_t *)us_at(arena, arena->at.bitmap[0][0]) ^= 1;
    expect_finding("(V9)");
    make_sound_arena();
    ((struct us_node_pages *)us_at(arena, arena->at.node_pages))->free_pages--;
    expect_finding("(V9)");
}

static void v10_an_owner_is_nobody(void)
{
    make_sound_arena();
    *us_tag(s, us_offset(arena, objects[PER_SLAB + 7])) = 200;
    expect_finding("(V10)");
    make_sound_arena();
    slab(3)->cache = 9;
    expect_finding("(V10)");
}

/* A shared object: a ticket of it is on its way. */
static struct us_pair *share_one(void)
{
    uint64_t object;
    struct us_ticket ticket;

    make_sound_arena();
    object = us_offset(arena, objects[PER_SLAB + 7]);
    assert(us_send(arena, us_at(arena, object), &ticket) == US_OK);
    assert(us_validate(arena, NULL, NULL, NULL) == 0);
    return us_holders_at(arena, s->tag_shift - 3, object);
}

static void v11_a_shared_object_has_no_holder(void)
{
    struct us_pair *pair = share_one();

    pair->lo = pair->hi = 0;
    expect_finding("(V11)");
    share_one()->lo |= 1ULL << 50;
    expect_finding("(V11)");
}

static void v12_a_transit_is_forgotten(void)
{
    share_one()->hi += 1ULL << US_TRANSITS_SHIFT;
    expect_finding("(V12)");
    (void)share_one();
    us_outbox_record(arena, 0, 0)->lo = 0;
    expect_finding("(V12)");
}

int main(void)
{
    a_sound_arena_has_no_findings();
    v1_a_slab_in_two_places();
    v2_inuse_is_off_by_one();
    v3_an_owner_is_forgotten();
    v4_a_free_object_has_an_owner();
    v4_an_object_is_free_twice();
    v5_a_listed_slab_is_frozen();
    v6_a_slab_with_a_free_object_is_nowhere();
    v7_a_counter_is_wrong();
    v8_a_list_does_not_link_back();
    v9_the_page_index_is_wrong();
    v10_an_owner_is_nobody();
    v11_a_shared_object_has_no_holder();
    v12_a_transit_is_forgotten();
    return 0;
}
