/* SPDX-License-Identifier: MIT */
/*
 * slabs_killer.c - the operations on slabs, caches and pages, each of their slow paths:
 * the state that leads into it, the one call, what the world does about it afterwards.
 *
 * A slab holds four objects, a chain one slab, a node's list keeps one empty slab. The
 * victim works on CPU 0, unless a free is to be remote.
 */
#include <string.h>

#include "killer.h"

/* ---- what the operation returned ---- */

void op_done(struct scene *s, us_err err)
{
    s->board->err[s->who] = err;
}

static void got(struct scene *s, void *object, uint32_t bytes)
{
    if (object != NULL) {
        s->board->got[s->board->got_count++] = us_offset(s->arena, object);
        s->board->got_bytes = bytes;
    }
    op_done(s, object != NULL ? US_OK : us_last_code());
}

/* ---- alloc ---- */

static void act_alloc(struct scene *s)
{
    got(s, us_alloc_on(s->cache, 0, 0, -1), OBJECT_SIZE);
}

static void act_alloc_zero(struct scene *s)
{
    got(s, us_alloc_on(s->cache, US_GFP_ZERO, 0, -1), OBJECT_SIZE);
}

void op_take_one(struct scene *s)
{
    (void)take(s, 0);
}

static void take_two(struct scene *s)
{
    take_many(s, 0, 2);
}

static void take_slab(struct scene *s)
{
    take_many(s, 0, 4);
}

/* Nothing is left of it but that this thread is known. */
void op_warm(struct scene *s)
{
    (void)take(s, 0);
    give(s, 0, 0);
    EXPECT(s, us_cache_shrink(s->cache) == US_OK, "shrink: %s", us_last_error());
}

/* The other half of the victim's slab; one of them is free again, from elsewhere. */
static void world_fills_slab(struct scene *s)
{
    take_many(s, 0, 2);
    give(s, 0, 1);
}

/* A slab on the chain of CPU 0, and a CPU slab that is used up. */
static void make_chain(struct scene *s)
{
    take_many(s, 0, 5);
    give(s, 0, 0);
    take_many(s, 0, 3);
}

/* Three slabs on the list of the node. */
static void make_list(struct scene *s)
{
    take_many(s, 0, 13);
    for (uint32_t i = 0; i < 12; i += 4) {
        give(s, i, 0);
    }
    EXPECT(s, us_cache_flush_chain(s->cache, 0) == US_OK, "flush: %s", us_last_error());
    take_many(s, 0, 3);
}

/* ---- free ---- */

static void act_free_own(struct scene *s)
{
    op_done(s, us_free_on(s->cache, held_at(s, s->who, 1), 0));
}

static void act_free_remote(struct scene *s)
{
    op_done(s, us_free_on(s->cache, held_at(s, s->who, 1), 1));
}

static void take_for_free(struct scene *s)
{
    take_many(s, 0, 2);
    (void)subject(s, 1);
}

static void full_slab(struct scene *s)
{
    take_many(s, 0, 5);
    (void)subject(s, 1);
}

/* The chain of CPU 1 is as long as it may be. */
static void full_slab_and_chain(struct scene *s)
{
    take_many(s, 0, 9);
    give(s, 4, 1);
    (void)subject(s, 1);
}

static void listed_slab(struct scene *s)
{
    take_many(s, 0, 5);
    give(s, 0, 1);
    EXPECT(s, us_cache_flush(s->cache, 1) == US_OK, "flush: %s", us_last_error());
    (void)subject(s, 1);
}

/* One object keeps a slab from being empty, and the list is long enough. */
static void last_object(struct scene *s)
{
    take_many(s, 0, 9);
    for (uint32_t i = 0; i < 4; i++) {
        if (i != 1) {
            give(s, i, 1);
        }
    }
    give(s, 4, 1);
    EXPECT(s, us_cache_flush(s->cache, 1) == US_OK, "flush: %s", us_last_error());
    (void)subject(s, 1);
}

/* ---- bulk ---- */

static void act_alloc_bulk(struct scene *s)
{
    void *objects[7];
    us_err err = us_alloc_bulk(s->cache, 0, 0, -1, 7, objects);

    for (int i = 0; err == US_OK && i < 7; i++) {
        got(s, objects[i], OBJECT_SIZE);
    }
    op_done(s, err);
}

static void act_free_bulk(struct scene *s)
{
    void *objects[6];

    for (uint32_t i = 0; i < 6; i++) {
        objects[i] = held_at(s, s->who, i);
    }
    op_done(s, us_free_bulk(s->cache, 6, objects, 0));
}

static void take_six(struct scene *s)
{
    take_many(s, 0, 6);
    for (uint32_t i = 0; i < 6; i++) {
        (void)subject(s, i);
    }
}

/* ---- kmalloc ---- */

static void hold_block(struct scene *s, uint32_t bytes)
{
    hold(s, us_kmalloc(s->arena, bytes, 0, 0, -1), bytes, false);
}

static void hold_small(struct scene *s)
{
    hold_block(s, 3000);
    give(s, 0, 0); /* its cache exists */
    hold_block(s, 100);
    (void)subject(s, 1);
}

/* What is freed merges twice, and not with everything. */
static void hold_large(struct scene *s)
{
    (void)take(s, 0);
    hold_block(s, 9000);
    hold_block(s, 9000);
    (void)subject(s, 2);
}

static void act_kmalloc_small(struct scene *s)
{
    got(s, us_kmalloc(s->arena, 100, 0, 0, -1), 100);
}

static void act_kmalloc_large(struct scene *s)
{
    got(s, us_kmalloc(s->arena, 20000, 0, 0, -1), 20000);
}

static void act_kfree_small(struct scene *s)
{
    op_done(s, us_kfree(s->arena, held_at(s, s->who, 1), 0));
}

static void act_kfree_large(struct scene *s)
{
    op_done(s, us_kfree(s->arena, held_at(s, s->who, 2), 0));
}

static void act_krealloc_moves(struct scene *s)
{
    got(s, us_krealloc(s->arena, held_at(s, s->who, 1), 3000, 0, 0), 100);
}

static void act_krealloc_large(struct scene *s)
{
    got(s, us_krealloc(s->arena, held_at(s, s->who, 2), 50000, 0, 0), 9000);
}

static void act_krealloc_stays(struct scene *s)
{
    got(s, us_krealloc(s->arena, held_at(s, s->who, 2), 14000, 0, 0), 9000);
}

/* ---- upkeep ---- */

static void slabs_everywhere(struct scene *s)
{
    take_many(s, 0, 14);
    for (uint32_t i = 0; i < 11; i++) {
        if (i % 4 != 3) {
            give(s, i, (int)(i / 4) & 1);
        }
    }
    for (uint32_t i = 8; i < 12; i++) {
        if (s->board->held[s->who][i].offset != 0) {
            give(s, i, 1);
        }
    }
}

static void act_flush(struct scene *s)
{
    op_done(s, us_cache_flush(s->cache, 0));
}

static void act_flush_all(struct scene *s)
{
    op_done(s, us_cache_flush(s->cache, -1));
}

static void act_shrink(struct scene *s)
{
    op_done(s, us_cache_shrink(s->cache));
}

static void act_cpu_partial(struct scene *s)
{
    op_done(s, us_cache_set_cpu_partial(s->cache, 8));
}

static void act_cpu_dead(struct scene *s)
{
    op_done(s, us_cpu_dead(s->arena, 0));
}

static void act_trim(struct scene *s)
{
    uint64_t bytes;

    op_done(s, us_arena_trim(s->arena, &bytes));
}

/* Pages that are free and committed, beside some that are not free. */
static void dirty_pages(struct scene *s)
{
    hold_block(s, 20000);
    hold_block(s, 40000);
    hold_block(s, 20000);
    give(s, 1, 0);
}

/* ---- caches ---- */

static char image[200];

static us_err create(struct scene *s, const char *name, uint32_t flags)
{
    struct us_cache_config shape = US_CACHE_CONFIG_INIT;
    us_cache *cache;

    shape.object_size = sizeof(image);
    shape.flags = flags;
    shape.image = flags & US_MERGE ? NULL : image;
    return us_cache_create(s->arena, name, &shape, &cache);
}

static void act_create(struct scene *s)
{
    op_done(s, create(s, "one", US_NO_MERGE | US_FREELIST_RANDOM));
}

static void create_mergeable(struct scene *s)
{
    EXPECT(s, create(s, "one", US_MERGE) == US_OK, "create: %s", us_last_error());
}

static void create_alias(struct scene *s)
{
    create_mergeable(s);
    EXPECT(s, create(s, "two", US_MERGE) == US_OK, "create: %s", us_last_error());
}

static void act_alias(struct scene *s)
{
    op_done(s, create(s, "two", US_MERGE));
}

static void create_used(struct scene *s)
{
    us_cache *cache;

    EXPECT(s, create(s, "one", US_NO_MERGE | US_FREELIST_RANDOM) == US_OK, "create: %s",
           us_last_error());
    EXPECT(s, us_cache_find(s->arena, "one", &cache) == US_OK, "find: %s",
           us_last_error());
    EXPECT(s, us_free_on(cache, us_alloc_on(cache, 0, 0, -1), 0) == US_OK, "use: %s",
           us_last_error());
}

static void act_find(struct scene *s)
{
    us_cache *cache;

    op_done(s, us_cache_find(s->arena, "one", &cache));
}

static void act_destroy(struct scene *s)
{
    op_done(s, us_cache_destroy(s->arena, "one"));
}

static void act_destroy_alias(struct scene *s)
{
    op_done(s, us_cache_destroy(s->arena, "two"));
}

/* A name is there and whole, or it is not there. */
void op_destroy_names(struct scene *s)
{
    static const char *const names[] = {"two", "one"};

    for (int i = 0; i < 2; i++) {
        us_cache *cache;
        us_err err = us_cache_find(s->arena, names[i], &cache);
        void *object;

        EXPECT(s, err == US_OK || err == US_ENOCACHE, "find '%s': %s", names[i],
               us_last_error());
        if (err != US_OK) {
            continue;
        }
        object = us_alloc_on(cache, 0, 0, -1);
        EXPECT(s, object != NULL && us_free_on(cache, object, 1) == US_OK,
               "cache '%s': %s", names[i], us_last_error());
        EXPECT(s, us_cache_destroy(s->arena, names[i]) == US_OK, "destroy '%s': %s",
               names[i], us_last_error());
    }
}

#define HARDENED (US_FREELIST_HARDENED | US_FREELIST_RANDOM)

static void take_elsewhere(struct scene *s)
{
    (void)take(s, 1);
}

static void act_flush_elsewhere(struct scene *s)
{
    op_done(s, us_cache_flush(s->cache, 1));
}

const struct operation doomed_operation = {
    "doomed",
    .then = take_elsewhere,
    .act = act_flush_elsewhere,
};

const struct operation slab_operations[] = {
    {"alloc_fast", .then = op_take_one, .act = act_alloc},
    {"alloc_zero", .then = op_take_one, .act = act_alloc_zero},
    {"alloc_refill", .first = take_two, .others = world_fills_slab, .act = act_alloc,
     .counts = US_STAT_ALLOC_REFILL},
    {"alloc_chain", .then = make_chain, .act = act_alloc,
     .counts = US_STAT_CPU_PARTIAL_ALLOC},
    {"alloc_list", .then = make_list, .act = act_alloc,
     .counts = US_STAT_ALLOC_FROM_PARTIAL},
    {"alloc_new", .then = take_slab, .act = act_alloc, .counts = US_STAT_ALLOC_SLAB},
    {"alloc_none", .then = op_warm, .act = act_alloc, .counts = US_STAT_ALLOC_SLAB},
    {"alloc_first", .act = act_alloc}, /* by this thread */
    {"alloc_hardened", .then = take_slab, .act = act_alloc, .cache_flags = HARDENED,
     .counts = US_STAT_ALLOC_SLAB},
    {"free_fast", .then = take_for_free, .act = act_free_own,
     .counts = US_STAT_FREE_FASTPATH},
    {"free_remote", .then = take_for_free, .act = act_free_remote,
     .counts = US_STAT_FREE_FROZEN},
    {"free_chain", .then = full_slab, .act = act_free_remote,
     .counts = US_STAT_CPU_PARTIAL_FREE},
    {"free_drain", .then = full_slab_and_chain, .act = act_free_remote,
     .counts = US_STAT_CPU_PARTIAL_DRAIN},
    {"free_listed", .then = listed_slab, .act = act_free_remote,
     .counts = US_STAT_FREE_SLOWPATH},
    {"free_last", .then = last_object, .act = act_free_remote,
     .counts = US_STAT_FREE_SLAB},
    {"free_unchained", .then = full_slab, .act = act_free_remote,
     .cache_flags = US_NO_CPU_PARTIAL, .counts = US_STAT_FREE_ADD_PARTIAL},
    {"free_hardened", .then = full_slab, .act = act_free_remote,
     .cache_flags = HARDENED},
    {"alloc_bulk", .then = take_two, .act = act_alloc_bulk,
     .counts = US_STAT_ALLOC_SLAB},
    {"free_bulk", .then = take_six, .act = act_free_bulk},
    {"kmalloc_small", .then = hold_small, .act = act_kmalloc_small},
    {"kmalloc_first", .then = op_take_one, .act = act_kmalloc_small, .names = true},
    {"kmalloc_large", .then = op_take_one, .act = act_kmalloc_large},
    {"kfree_small", .then = hold_small, .act = act_kfree_small},
    {"kfree_large", .then = hold_large, .act = act_kfree_large},
    {"krealloc_moves", .then = hold_small, .act = act_krealloc_moves},
    {"krealloc_large", .then = hold_large, .act = act_krealloc_large, .slow = true},
    {"krealloc_stays", .then = hold_large, .act = act_krealloc_stays},
    {"flush", .then = slabs_everywhere, .act = act_flush,
     .counts = US_STAT_CPUSLAB_FLUSH},
    {"flush_all", .then = slabs_everywhere, .act = act_flush_all,
     .counts = US_STAT_CPUSLAB_FLUSH},
    {"shrink", .then = slabs_everywhere, .act = act_shrink,
     .counts = US_STAT_FREE_SLAB},
    {"set_cpu_partial", .then = slabs_everywhere, .act = act_cpu_partial,
     .counts = US_STAT_CPUSLAB_FLUSH},
    {"cpu_dead", .then = slabs_everywhere, .act = act_cpu_dead,
     .counts = US_STAT_CPUSLAB_FLUSH, .names = true},
    {"trim", .then = dirty_pages, .act = act_trim},
    {"create", .then = op_take_one, .act = act_create, .after = op_destroy_names,
     .names = true},
    {"create_alias", .then = create_mergeable, .act = act_alias,
     .after = op_destroy_names, .names = true},
    {"find", .others = create_used, .then = op_take_one, .act = act_find,
     .after = op_destroy_names, .names = true},
    {"destroy", .then = create_used, .act = act_destroy, .after = op_destroy_names,
     .names = true},
    {"destroy_alias", .then = create_alias, .act = act_destroy_alias,
     .after = op_destroy_names, .names = true},
};
const size_t slab_operation_count =
    sizeof(slab_operations) / sizeof(slab_operations[0]);
