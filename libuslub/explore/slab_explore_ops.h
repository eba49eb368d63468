/* SPDX-License-Identifier: MIT */
/*
 * slab_explore_ops.h - what actors do in slab_explore.c, and what each needs to find.
 *
 * Everything an operation is answered is checked: in a sound arena with room only what
 * `may` lists is an answer, whoever else has stopped or died.
 */
#ifndef US_EXPLORE_SLAB_EXPLORE_OPS_H
#define US_EXPLORE_SLAB_EXPLORE_OPS_H

#include "explore/slab_explore_world.h"

#define MAY(code) (1ULL << (code))

/* Answers that are no fault: a lock that cannot be had, in the calls that wait. */
#define PATIENT (MAY(US_ELOCKED) | MAY(US_EOWNERDEAD))

/* Is a block in somebody's hand, who perhaps has stopped with all there is? */
static bool pages_in_hand(const struct us_arena *a)
{
    for (uint32_t page = a->first_page; page < a->end_page; page++) {
        enum us_block_state state = us_page_word_read(a->pages[page].word).state;

        if (state == US_BLOCK_SPLIT || state == US_BLOCK_MERGE ||
            state == US_BLOCK_ALLOC) {
            return true;
        }
    }
    return false;
}

static bool answered(const struct actor *self, us_err err, uint64_t may)
{
    if (err == US_ENOMEM && (variant->full || pages_in_hand(self->arena))) {
        return false;
    }
    if (err != US_OK && !(may & MAY(err))) {
        wrong("%c was answered %s: %s", name_of(number_of(self)), us_error_name(err),
              us_last_error());
    }
    return err == US_OK;
}

static void got(struct actor *self, void *p, uint64_t bytes, uint64_t may)
{
    if (answered(self, p == NULL ? us_last_code() : US_OK, may)) {
        (void)gain(self, p, bytes);
    }
}

static void *at(const struct actor *self, int number)
{
    return mapping == NULL ? NULL : us_at(self->arena, things[number].offset);
}

static void let_go(struct actor *self, int number)
{
    if (holds(self, number)) {
        lose(self, number);
        (void)answered(self,
                       things[number].bytes == PAYLOAD
                           ? us_free_on(self->cache, at(self, number), cpu_of(self))
                           : us_kfree(self->arena, at(self, number), cpu_of(self)),
                       0);
    }
}

/* ---- objects ---- */

static void allocates(struct actor *self)
{
    got(self, us_alloc_on(self->cache, 0, cpu_of(self), -1), PAYLOAD, 0);
}

static void allocates_twice(struct actor *self)
{
    allocates(self);
    allocates(self);
}

static void allocates_far(struct actor *self)
{
    int node = (int)variant->nodes - 1;

    got(self, us_alloc_on(self->cache, US_GFP_THISNODE, 0, node), PAYLOAD, 0);
    got(self, us_alloc_on(self->cache, US_GFP_ZERO, 0, 0), PAYLOAD, 0);
}

static void allocates_from_reserve(struct actor *self)
{
    got(self, us_alloc_on(self->cache, US_GFP_EMERGENCY, cpu_of(self), -1), PAYLOAD, 0);
    allocates(self);
}

static void allocates_many(struct actor *self)
{
    void *objects[OF_SLAB + 2];
    us_err err = us_alloc_bulk(self->cache, 0, cpu_of(self), -1, OF_SLAB + 2, objects);

    for (int i = 0; answered(self, err, 0) && i < OF_SLAB + 2; i++) {
        (void)gain(self, objects[i], PAYLOAD);
    }
}

static void frees_cpu(struct actor *self)
{
    for (int i = 0; i < OF_SLAB; i++) {
        let_go(self, own[number_of(self)].cpu[i]);
    }
}

static void frees_full(struct actor *self)
{
    let_go(self, own[number_of(self)].full[0]);
}

static void frees_all_of_full(struct actor *self)
{
    for (int i = 0; i < OF_SLAB; i++) {
        let_go(self, own[number_of(self)].full[i]);
    }
}

static void frees_listed(struct actor *self)
{
    let_go(self, own[number_of(self)].listed[0]);
}

static void frees_last(struct actor *self)
{
    let_go(self, own[number_of(self)].last[0]);
}

static void frees_small(struct actor *self)
{
    let_go(self, own[number_of(self)].small);
}

static void frees_shared(struct actor *self)
{
    let_go(self, own[number_of(self)].shared);
}

static void frees_many(struct actor *self)
{
    const struct belongings *mine = &own[number_of(self)];
    int numbers[] = {mine->cpu[0],  mine->full[0],   mine->full[1],   mine->full[2],
                     mine->full[3], mine->listed[0], mine->listed[1], mine->shared};
    void *objects[sizeof(numbers) / sizeof(numbers[0])];
    size_t count = 0;

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        if (holds(self, numbers[i])) {
            lose(self, numbers[i]);
            objects[count++] = at(self, numbers[i]);
        }
    }
    (void)answered(self, us_free_bulk(self->cache, count, objects, cpu_of(self)), 0);
}

static void moves_and_adopts(struct actor *self)
{
    int number = own[number_of(self)].cpu[0];
    uint16_t me = us_owner(self->arena);

    if (answered(self, us_move(self->arena, at(self, number)), 0)) {
        (void)answered(self, us_adopt(self->arena, things[number].offset, me), 0);
    }
}

static void shares(struct actor *self)
{
    struct us_ticket ticket;
    void *object = at(self, own[number_of(self)].cpu[0]);

    if (answered(self, us_send(self->arena, object, &ticket), 0) &&
        answered(self, us_receive(self->arena, &ticket, &object), 0)) {
        (void)answered(self, us_kfree(self->arena, object, cpu_of(self)), 0);
    }
}

/* ---- sizes and pages ---- */

static void allocates_small(struct actor *self)
{
    got(self, us_kmalloc(self->arena, SMALL_OBJECT, 0, cpu_of(self), -1), SMALL_OBJECT,
        PATIENT);
}

static void grows(struct actor *self)
{
    int number = own[number_of(self)].small;
    void *p = at(self, number);

    *mark_at(&things[number], 0) = 0; /* what is copied and freed is nobody's */
    *mark_at(&things[number], 1) = 0;
    p = us_krealloc(self->arena, p, 2 * SMALL_OBJECT, 0, cpu_of(self));
    if (answered(self, p == NULL ? us_last_code() : US_OK, PATIENT)) {
        things[number].refs[number_of(self)] = 0;
        (void)gain(self, p, 2 * SMALL_OBJECT);
    } else {
        *mark_at(&things[number], 0) = things[number].mark;
        *mark_at(&things[number], 1) = things[number].mark;
    }
}

static void allocates_large(struct actor *self)
{
    got(self, us_kmalloc(self->arena, LARGE_OBJECT, 0, cpu_of(self), -1), LARGE_OBJECT,
        0);
}

static void grows_large(struct actor *self)
{
    int number = own[number_of(self)].large;
    void *p = us_krealloc(self->arena, at(self, number), LARGE_OBJECT + 1, 0, -1);

    if (p != at(self, number)) {
        wrong("%c grew in its block, and it moved", name_of(number_of(self)));
    }
}

static void frees_large(struct actor *self)
{
    let_go(self, own[number_of(self)].large);
}

static void trims(struct actor *self)
{
    uint64_t bytes;

    (void)answered(self, us_arena_trim(self->arena, &bytes), 0);
}

static void reclaims(struct actor *self)
{
    us_reclaim(self->arena, us_thread_self(self->arena));
}

/* ---- caches ---- */

static void flushes(struct actor *self)
{
    (void)answered(self, us_cache_flush(self->cache, -1), PATIENT);
}

static void shrinks(struct actor *self)
{
    (void)answered(self, us_cache_shrink(self->cache), PATIENT);
}

static void tunes(struct actor *self)
{
    (void)answered(self, us_cache_set_min_partial(self->cache, 1), 0);
    (void)answered(self, us_cache_set_cpu_partial(self->cache, OF_SLAB), PATIENT);
}

static void loses_a_cpu(struct actor *self)
{
    (void)answered(self, us_cpu_dead(self->arena, cpu_of(self)), PATIENT);
}

static void creates(struct actor *self)
{
    struct us_cache_config config = cache_config();
    us_cache *s;

    config.image = NULL;
    if (answered(self, us_cache_create(self->arena, "third", &config, &s), PATIENT)) {
        void *p = us_alloc_on(s, 0, cpu_of(self), -1);

        if (answered(self, p == NULL ? us_last_code() : US_OK, 0)) {
            (void)answered(self, us_free_on(s, p, cpu_of(self)), 0);
        }
    }
}

/* With all that a cache may have beside itself. */
static void creates_with_tables(struct actor *self)
{
    struct us_cache_config config = cache_config();
    us_cache *s;

    config.image = image;
    config.object_size = PAYLOAD;
    config.flags |= US_FREELIST_RANDOM;
    if (answered(self, us_cache_create(self->arena, "tables", &config, &s), PATIENT)) {
        void *p = us_alloc_on(s, 0, cpu_of(self), -1);

        if (answered(self, p == NULL ? us_last_code() : US_OK, 0)) {
            (void)answered(self, us_free_on(s, p, cpu_of(self)), 0);
        }
    }
}

static void merges(struct actor *self)
{
    struct us_cache_config config = US_CACHE_CONFIG_INIT;
    us_cache *s;

    config.object_size = 2 * OBJECT - 1;
    config.flags = US_MERGE;
    (void)answered(self, us_cache_create(self->arena, "merged", &config, &s), PATIENT);
    config.object_size = 2 * OBJECT;
    (void)answered(self, us_cache_create(self->arena, "alias", &config, &s), PATIENT);
    (void)answered(self, us_cache_destroy(self->arena, "merged"),
                   PATIENT | MAY(US_ENOCACHE));
}

static void finds(struct actor *self)
{
    us_cache *s;

    (void)answered(self, us_cache_find(self->arena, "first", &s), PATIENT);
}

static void destroys(struct actor *self)
{
    (void)answered(self, us_cache_destroy(self->arena, "second"),
                   PATIENT | MAY(US_EBUSY) | MAY(US_ENOCACHE));
}

/* While it is destroyed, perhaps. */
static void uses_second(struct actor *self)
{
    us_cache *s = second[number_of(self)];
    void *p = us_alloc_on(s, 0, cpu_of(self), -1);

    if (answered(self, p == NULL ? us_last_code() : US_OK,
                 PATIENT | MAY(US_ENOCACHE))) {
        (void)answered(self, us_free_on(s, p, cpu_of(self)), 0);
    }
}

/* ---- participants ---- */

static void registers(struct actor *self)
{
    self->moved = true;
    if (us_thread_self(self->arena) == NULL) { /* crowded, and a reaper has stopped */
        (void)answered(self, us_last_code(), MAY(US_ELIMIT));
    } else {
        allocates(self);
    }
}

static void detaches(struct actor *self)
{
    self->moved = true;
    for (int i = 0; i < thing_count; i++) { /* all of it goes back */
        things[i].refs[number_of(self)] = 0;
    }
    us_process_unregister(self->arena);
    self->arena->self->id = 0;
    us_tls.id = US_TLS_NOBODY;
}

static void reaps(struct actor *self)
{
    struct us_reaped reaped;

    (void)answered(self, us_reap(self->arena, &reaped), 0);
}

/* Everything goes, as far as it can be had, and a little is taken again. */
static void leaves(struct actor *self)
{
    for (int i = 0; i < thing_count; i++) {
        let_go(self, i);
    }
    flushes(self);
    shrinks(self);
    allocates(self);
}

/* ---- the table ---- */

struct op {
    const char *name;
    void (*work)(struct actor *);
    unsigned needs;
};

static const struct op ops[] = {
    {"alloc-cpu", allocates, CPU_PART},
    {"alloc-refill", allocates, REFILL},
    {"alloc-chain", allocates, CHAINED | CPU_USED},
    {"alloc-list", allocates_twice, ON_LIST | CPU_USED},
    {"alloc-new", allocates, CPU_USED},
    {"alloc-far", allocates_far, ON_LIST | CPU_PART},
    {"alloc-reserve", allocates_from_reserve, CPU_USED},
    {"alloc-many", allocates_many, CPU_PART | CHAINED},
    {"free-cpu", frees_cpu, CPU_PART},
    {"free-full", frees_full, FULL},
    {"free-all", frees_all_of_full, FULL},
    {"free-listed", frees_listed, ON_LIST},
    {"free-last", frees_last, LAST},
    {"free-shared", frees_shared, SHARED},
    {"free-many", frees_many, FULL | ON_LIST | CPU_PART | SHARED},
    {"move", moves_and_adopts, CPU_PART},
    {"share", shares, CPU_PART},
    {"small", allocates_small, 0},
    {"small-free", frees_small, SMALL},
    {"small-grow", grows, SMALL},
    {"large", allocates_large, 0},
    {"large-free", frees_large, LARGE},
    {"large-grow", grows_large, LARGE},
    {"trim", trims, CPU_USED},
    {"reclaim", reclaims, CPU_PART | ON_LIST},
    {"flush", flushes, CPU_PART | CHAINED},
    {"shrink", shrinks, ON_LIST | LAST | CPU_PART},
    {"tune", tunes, CHAINED},
    {"cpu-dead", loses_a_cpu, CPU_PART},
    {"create", creates, 0},
    {"create-tables", creates_with_tables, 0},
    {"merge", merges, 0},
    {"find", finds, 0},
    {"destroy", destroys, SECOND},
    {"use-second", uses_second, SECOND},
    {"register", registers, OUTSIDE},
    {"register-crowded", registers, OUTSIDE | CROWDED},
    {"detach", detaches, FULL | CPU_PART},
    {"reap", reaps, DEAD_C},
};
#define OPS (sizeof(ops) / sizeof(ops[0]))

/* What C does meanwhile; it has a full slab, so these need no more. */
static const struct op thirds[] = {
    {"leave", leaves, FULL},
    {"reap", reaps, FULL},
    {"alloc-new", allocates_twice, FULL},
    {"free-all", frees_all_of_full, FULL},
    {"shrink", shrinks, FULL},
    {"large", allocates_large, FULL},
    {"find", finds, FULL},
    {"alloc-many", allocates_many, FULL},
};
#define THIRDS (sizeof(thirds) / sizeof(thirds[0]))

#endif
