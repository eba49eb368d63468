/* SPDX-License-Identifier: MIT */
/*
 * slab_explore_world.h - the small arena that slab_explore.c plays in: how it begins,
 * who holds what, and what must hold whenever everybody has finished.
 *
 * Whoever has an object writes its mark into it, and wipes it before letting go: an
 * object that still has somebody's mark when it is handed out was taken from him, or
 * was his when he died and nobody wiped it.
 */
#ifndef US_EXPLORE_SLAB_EXPLORE_WORLD_H
#define US_EXPLORE_SLAB_EXPLORE_WORLD_H

#include "cache/hold.h"
#include "cache/names.h"
#include "explore/explore.h"
#include "slab/geometry.h"

#define REAPER       3
#define THINGS       96
#define PAGES        40   /* per node */
#define OBJECT       1024 /* bytes: four objects in a slab of one page */
#define PAYLOAD      (OBJECT - US_WORD)
#define SMALL_OBJECT 304
#define OF_SLAB      4
#define MARK         0xf111ed005a000000UL
#define LARGE_OBJECT (3 * US_PAGE_SIZE)
#define NO_THING     (-1)

/* Arenas and caches that differ in the ways an object can take. */
struct variant {
    const char *name;
    uint32_t cpus, nodes, flags;
    int32_t min_partial;
    uint64_t reserve; /* bytes */
    bool image;
    bool full; /* no free page but the reserve, and free pages are given back */
};
static const struct variant variants[] = {
    {"chains", 1, 1, 0, 0, 0, false, false},
    {"plain", 1, 1, US_NO_CPU_PARTIAL, 1, 0, true, false},
    {"two", 2, 1, 0, 1, 0, false, false},
    {"hard", 2, 1, US_NO_CPU_PARTIAL | US_FREELIST_HARDENED, 0, 0, false, false},
    {"nodes", 2, 2, 0, 0, 0, false, false},
    {"full", 1, 1, 0, 0, 2 * US_PAGE_SIZE, false, true},
};
#define VARIANTS (sizeof(variants) / sizeof(variants[0]))

static const struct variant *variant;
static char image[PAYLOAD];

struct thing {
    uint64_t offset, bytes;
    uint64_t mark; /* what stands in it */
    uint8_t refs[ACTORS];
};
static struct thing things[THINGS], things_kept[THINGS];
static int thing_count, thing_count_kept;

/* What an actor has from the start, by number of thing. */
struct belongings {
    int full[OF_SLAB];   /* all of a slab */
    int listed[OF_SLAB]; /* the first two: of a slab on the node's list */
    int last[OF_SLAB];   /* the first one: alone in a listed slab */
    int chained[OF_SLAB];
    int cpu[OF_SLAB];
    int large, shared, small;
};
static struct belongings own[ACTORS];
static us_cache *second[ACTORS]; /* handles of the cache that is destroyed */

static const struct schedule *now_playing;
static char trouble[400]; /* the first thing that an actor found wrong */

__attribute__((format(printf, 1, 2))) static void wrong(const char *format, ...)
{
    va_list args;

    if (trouble[0] == '\0') {
        va_start(args, format);
        (void)vsnprintf(trouble, sizeof(trouble), format, args);
        va_end(args);
    }
}

static int number_of(const struct actor *self)
{
    return (int)(self - actors);
}

static int cpu_of(const struct actor *self)
{
    return number_of(self) % (int)variant->cpus;
}

/* Takes part, and will go on doing so. */
static bool lives(int who)
{
    return !actors[who].dead && actors[who].arena->self->id != 0;
}

/* ---- who holds what ---- */

static int holders_of(const struct thing *thing, bool living)
{
    int count = 0;

    for (int who = 0; who < ACTORS; who++) {
        count += !living || lives(who) ? thing->refs[who] : 0;
    }
    return count;
}

/* Away from where a free object's link is. */
static uint64_t *mark_at(const struct thing *thing, int i)
{
    return (uint64_t *)(void *)(mapping + thing->offset +
                                (i == 0 ? 0 : thing->bytes - sizeof(uint64_t)));
}

/* `p` has just been handed out to `self`. */
static int gain(struct actor *self, void *p, uint64_t bytes)
{
    struct thing *thing = &things[thing_count];

    assert(thing_count < THINGS);
    *thing = (struct thing){.offset = us_offset(self->arena, p),
                            .bytes = bytes,
                            .mark = MARK + (uint64_t)number_of(self)};
    thing->refs[number_of(self)] = 1;
    for (int i = 0; i < thing_count; i++) {
        if (things[i].offset < thing->offset + bytes &&
            thing->offset < things[i].offset + things[i].bytes &&
            holders_of(&things[i], true) != 0) {
            wrong("%c got the object at 0x%llx, which another one holds",
                  name_of(number_of(self)), (unsigned long long)thing->offset);
        }
    }
    for (int i = 0; i < 2; i++) {
        uint64_t seen = *mark_at(thing, i);

        if (seen - MARK < ACTORS) {
            wrong("%c got the object at 0x%llx, where %c's bytes are left",
                  name_of(number_of(self)), (unsigned long long)thing->offset,
                  name_of((int)(seen - MARK)));
        }
        *mark_at(thing, i) = thing->mark;
    }
    return thing_count++;
}

/* It is about to let go of it; the last one wipes it. */
static void lose(struct actor *self, int number)
{
    struct thing *thing = &things[number];

    thing->refs[number_of(self)]--;
    if (holders_of(thing, false) == 0) {
        *mark_at(thing, 0) = *mark_at(thing, 1) = 0;
    }
}

static bool holds(const struct actor *self, int number)
{
    return number != NO_THING && things[number].refs[number_of(self)] != 0;
}

/* ---- how it begins ---- */

/* What an operation needs to find. */
#define FULL     1u   /* a slab with all objects mine */
#define ON_LIST  2u   /* a listed slab with two objects mine */
#define LAST     4u   /* a listed slab with one */
#define CHAINED  8u   /* a slab on the chain, or the list */
#define EMPTY    16u  /* an empty slab, if the cache keeps one */
#define CPU_PART 32u  /* a CPU slab with free objects and one mine */
#define CPU_USED 64u  /* a CPU slab without */
#define REFILL   128u /* the same, into which somebody has freed */
#define LARGE    256u
#define SHARED   512u  /* a shared object that I alone hold */
#define SMALL    1024u /* an object of kmalloc */
#define SECOND   2048u /* the second cache, with a slab and no object */
#define OUTSIDE  4096u /* it has not registered yet */
#define CROWDED  8192u /* all participants' slots are taken, one by somebody dead */
#define DEAD_C   16384u

static int crowd_file;
static unsigned building; /* what is being set up, of the above */

static int take_one(struct actor *self)
{
    void *p = us_alloc_on(self->cache, 0, cpu_of(self), -1);

    assert(p != NULL);
    return gain(self, p, PAYLOAD);
}

static void give_one(struct actor *self, int *number, int cpu)
{
    us_err err;

    lose(self, *number);
    err = us_free_on(self->cache, us_at(self->arena, things[*number].offset), cpu);
    assert(err == US_OK);
    (void)err;
    *number = NO_THING;
}

static void take_slab(struct actor *self, int slab[OF_SLAB])
{
    for (int i = 0; i < OF_SLAB; i++) {
        slab[i] = take_one(self);
    }
}

static void set_up_whole_slabs(struct actor *self)
{
    struct belongings *mine = &own[number_of(self)];

    if (building & FULL) {
        take_slab(self, mine->full);
    }
    if (building & ON_LIST) {
        take_slab(self, mine->listed);
    }
    if (building & LAST) {
        take_slab(self, mine->last);
    }
    if (building & CHAINED) {
        take_slab(self, mine->chained);
    }
    if (building & LARGE) {
        void *p = us_kmalloc(self->arena, LARGE_OBJECT, 0, cpu_of(self), -1);

        assert(p != NULL);
        mine->large = gain(self, p, LARGE_OBJECT);
    }
    if (building & SMALL) {
        void *p = us_kmalloc(self->arena, SMALL_OBJECT, 0, cpu_of(self), -1);

        assert(p != NULL);
        mine->small = gain(self, p, SMALL_OBJECT);
    }
}

static void set_up_cpu(struct actor *self)
{
    struct belongings *mine = &own[number_of(self)];

    if (building & SHARED) {
        struct us_ticket ticket;
        void *object;
        us_err err;

        mine->shared = take_one(self);
        object = us_at(self->arena, things[mine->shared].offset);
        err = us_send(self->arena, object, &ticket);
        assert(err == US_OK);
        err = us_receive(self->arena, &ticket, &object);
        assert(err == US_OK);
        err = us_kfree(self->arena, object, -1); /* one of two references */
        assert(err == US_OK);
        (void)err;
    }
    if (building & CPU_PART) {
        mine->cpu[0] = take_one(self);
    } else if (building) { /* what follows must not meet its slab here */
        take_slab(self, mine->cpu);
    }
    if (building & REFILL) {
        give_one(self, &mine->cpu[0], (cpu_of(self) + 1) % (int)variant->cpus);
    }
}

static void set_up_lists(struct actor *self)
{
    struct belongings *mine = &own[number_of(self)];
    us_err err = US_OK;

    for (int i = 2; (building & ON_LIST) && i < OF_SLAB; i++) {
        give_one(self, &mine->listed[i], cpu_of(self));
    }
    for (int i = 1; (building & LAST) && i < OF_SLAB; i++) {
        give_one(self, &mine->last[i], cpu_of(self));
    }
    if (building & (ON_LIST | LAST)) {
        err = us_cache_flush_chain(self->cache, cpu_of(self));
    }
    assert(err == US_OK);
    (void)err;
    if (building & CHAINED) {
        give_one(self, &mine->chained[0], cpu_of(self));
    }
}

static void set_up_second(struct actor *self)
{
    us_err err = us_cache_find(self->arena, "second", &second[number_of(self)]);
    void *p;

    assert(err == US_OK);
    (void)err;
    p = us_alloc_on(second[number_of(self)], 0, cpu_of(self), -1);
    assert(p != NULL);
    err = us_free_on(second[number_of(self)], p, cpu_of(self));
    assert(err == US_OK);
}

/* All slots but the actors' have somebody who lives, and does nothing. */
static void crowd(bool here)
{
    struct actor all = {.fd = crowd_file};

    lock(&all, here ? F_WRLCK : F_UNLCK, (off_t)(US_LOCK_BASE + ACTORS),
         US_PROCESSES - ACTORS);
}

static void set_up_outside(struct actor *self)
{
    if (!(building & OUTSIDE)) {
        return;
    }
    for (int i = 0; i < thing_count; i++) {
        things[i].refs[number_of(self)] = 0; /* all goes back */
    }
    us_process_unregister(self->arena);
    self->arena->self->id = 0;
    self->arena->self->owner = 0;
    us_tls.id = US_TLS_NOBODY;
    for (uint32_t slot = 0; (building & CROWDED) && slot < US_PROCESSES; slot++) {
        us_process_at(self->arena, slot)->state = US_PROCESS_LIVE;
    }
    if (building & CROWDED) {
        crowd(true);
    }
}

/* Whatever is free, but for the reserve, is C's: one page at a time. */
static void set_up_shortage(struct actor *self)
{
    struct us_arena *a = self->arena;
    struct us_run run;

    us_cache_flush(self->cache, -1);
    while (us_pages_alloc(a, us_tls.thread, 0, 0, -1, 0, US_PAGE_SIZE, &run) == US_OK) {
        a->pages[run.page].cache = 0;
        a->pages[run.page].requested = US_PAGE_SIZE;
        *us_large_tag(a, run.page) = us_me(a);
        us_pages_publish(a, run.page, US_BLOCK_LARGE);
        (void)gain(self, us_at(a, us_page_offset(run.page)), US_PAGE_SIZE);
    }
}

static void set_up(const unsigned needs[ACTORS])
{
    static void (*const stages[])(struct actor *) = {
        set_up_whole_slabs,
        set_up_cpu,
        set_up_lists,
        set_up_second,
    };

    memset(own, 0xff, sizeof(own)); /* NO_THING */
    for (size_t stage = 0; stage < sizeof(stages) / sizeof(stages[0]); stage++) {
        for (int who = 0; who < ACTORS; who++) {
            building = needs[who];
            if (stages[stage] != set_up_second || (building & SECOND)) {
                as(who, stages[stage]);
            }
        }
    }
    if (variant->full) {
        as(2, set_up_shortage);
    }
    for (int who = 0; who < ACTORS; who++) {
        building = needs[who];
        as(who, set_up_outside);
    }
}

/* ---- a new arena ---- */

static struct us_cache_config cache_config(void)
{
    struct us_cache_config config = US_CACHE_CONFIG_INIT;

    config.object_size = variant->image ? PAYLOAD : OBJECT;
    config.align = US_WORD;
    config.flags = variant->flags;
    config.order = 0;
    config.min_partial = variant->min_partial;
    config.defrag_ratio = 1024; /* not by chance */
    config.image = variant->image ? image : NULL;
    return config;
}

static void finds_cache(struct actor *self)
{
    us_err err = us_cache_find(self->arena, "first", &self->cache);

    assert(err == US_OK);
    (void)err;
}

/* Every page is real before anything is explored. */
static void commits_all(struct actor *self)
{
    struct us_cache_config config = cache_config();
    void *blocks[PAGES];
    size_t count = 0;
    us_cache *s;
    us_err err = us_cache_create(self->arena, "first", &config, &s);

    assert(err == US_OK);
    err = us_cache_set_cpu_partial_slabs(s, 1);
    assert(err == US_OK);
    config.image = NULL;
    err = us_cache_create(self->arena, "second", &config, &s);
    assert(err == US_OK);
    (void)err;
    for (int node = 0; node < (int)variant->nodes; node++) {
        void *p;

        while ((p = us_kmalloc(self->arena, 16384, US_GFP_THISNODE | US_GFP_EMERGENCY,
                               0, node)) != NULL) {
            memset(p, 0, 16384);
            blocks[count++] = p;
        }
    }
    while (count > 0) {
        err = us_kfree(self->arena, blocks[--count], 0);
        assert(err == US_OK);
    }
}

static void open_world(const struct variant *v)
{
    uint64_t bytes = (uint64_t)PAGES * v->nodes * US_PAGE_SIZE;
    struct us_arena_config config = {
        .size = bytes,
        .cpus = v->cpus,
        .nodes = v->nodes,
        .reserve = v->reserve,
        .keep = v->full ? 0 : bytes,
    };

    variant = v;
    thing_count = 0;
    open_actors(ACTORS, &config);
    crowd_file = open_again();
    as(0, commits_all);
    for (int who = 0; who < ACTORS; who++) {
        as(who, finds_cache);
    }
}

#endif
