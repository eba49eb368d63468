/* SPDX-License-Identifier: MIT */
/*
 * slab_explore_check.h - what must hold after every schedule of slab_explore.c.
 *
 * The dead are settled; validate() is clean; whoever lives has what it was given, as it
 * left it, and nobody else has anything; all free objects can be had; and when
 * everybody has let go every page is free.
 */
#ifndef US_EXPLORE_SLAB_EXPLORE_CHECK_H
#define US_EXPLORE_SLAB_EXPLORE_CHECK_H

#include "explore/slab_explore_ops.h"

#define REAPS_MAX 3

static bool talks;  /* shows what it finds */
static int drainer; /* who does all that follows: somebody who lives */

static void complain(const char *finding, void *arg)
{
    (void)arg;
    (void)fprintf(stderr, "explore: %s: %s\n", text_of(now_playing), finding);
}

static void settles_the_dead(struct actor *self)
{
    struct us_reaped reaped = {.waiting = 1};
    us_err err = US_OK;

    for (int i = 0; i < REAPS_MAX && (reaped.waiting || reaped.doubtful); i++) {
        err = us_reap(self->arena, &reaped);
    }
    EXPECT(now_playing, err == US_OK, "reap: %s", us_last_error());
    EXPECT(now_playing, reaped.waiting == 0, "a dead participant cannot be settled");
    EXPECT(now_playing, reaped.doubtful == 0, "a cache stays in doubt");
}

/* ---- who has what ---- */

/* For whoever plays one schedule again: every slab of the first cache. */
static void show_slabs(const struct actor *self)
{
    struct us_slab_info info;
    us_picture *picture;

    if (!talks || us_picture_take(self->cache, &picture) != US_OK) {
        return;
    }
    for (uint32_t i = 0; us_picture_slab(picture, i, &info); i++) {
        static const char *const places[] = {"CPU", "chain", "list", "full", "stray"};

        (void)printf("slab %u page %u: %s %u, %u in use, %u free, frozen %d\n",
                     info.slab, info.page, places[info.place], info.place_index,
                     info.inuse, info.free_count, info.frozen);
    }
    us_picture_free(picture);
    for (uint32_t node = 0; node < variant->nodes; node++) {
        const struct us_kmem_cache_node *n = us_node(self->cache, node);

        (void)printf("node %u: lock 0x%x, %u partial, strays %u, suspect %u\n", node,
                     n->list_lock, n->nr_partial, n->strays,
                     self->cache->shared->suspect);
    }
}

static uint64_t owned_in_slab(struct us_arena *a, uint32_t page, uint32_t only)
{
    const struct us_page *p = a->pages + page;
    struct us_cache *s = us_cache_handle(a, p->cache);
    uint64_t owned = 0;

    for (uint32_t i = 0; s != NULL && (only == 0 || s->id == only) &&
                         i < us_slab_read(us_slab_load(p)).objects;
         i++) {
        owned += *us_tag(s, us_object_offset(s, page, i)) != 0;
    }
    return owned;
}

/* Objects that somebody owns on a node, of one cache or (0) at all. */
static uint64_t owned_objects(struct us_arena *a, uint32_t node, uint32_t only)
{
    uint32_t page = a->first_page + (uint32_t)(node * a->config.node_pages);
    uint32_t end = page + (uint32_t)a->config.node_pages, order;
    uint64_t owned = 0;

    for (; page < end; page += 1u << order) {
        enum us_block_state state = us_block_state(a, page, &order);

        if (state == US_BLOCK_SLAB) {
            owned += owned_in_slab(a, page, only);
        } else if (state == US_BLOCK_LARGE && only == 0) {
            owned += *us_large_tag(a, page) != 0;
        }
    }
    return owned;
}

static void check_thing(struct us_arena *a, const struct thing *thing, int number)
{
    struct us_object_info info = {0};
    us_err err = us_object_stat(a, us_at(a, thing->offset), &info);

    EXPECT(now_playing, err == US_OK, "thing %d is no object: %s", number,
           us_last_error());
    for (int who = 0; who < ACTORS; who++) {
        uint32_t slot = us_me(actors[who].arena) - 1u;
        bool has = info.shared ? info.holders >> slot & 1
                               : info.owner == slot + 1 && !info.moving;

        EXPECT(now_playing, !lives(who) || has == (thing->refs[who] != 0),
               "thing %d at 0x%llx: %c should hold it %d times, the arena says %d",
               number, (unsigned long long)thing->offset, name_of(who),
               thing->refs[who], has);
    }
    EXPECT(now_playing,
           *mark_at(thing, 0) == thing->mark && *mark_at(thing, 1) == thing->mark,
           "thing %d at 0x%llx was overwritten", number,
           (unsigned long long)thing->offset);
}

static void checks_things(struct actor *self)
{
    struct us_arena *a = self->arena;
    uint64_t held = 0, owned = 0;

    show_slabs(self);
    EXPECT(now_playing, us_validate(a, NULL, complain, NULL) == 0, "validate()");
    for (int i = 0; i < thing_count; i++) {
        if (holders_of(&things[i], true) != 0) {
            held++;
            check_thing(a, &things[i], i);
        }
    }
    for (uint32_t node = 0; node < a->nodes; node++) {
        owned += owned_objects(a, node, 0);
    }
    EXPECT(now_playing, held == owned, "%llu objects are held, %llu have an owner",
           (unsigned long long)held, (unsigned long long)owned);
}

/* ---- all that is free can be had, and all of it goes back ---- */

static void takes_all_free(struct actor *self)
{
    struct us_arena *a = self->arena;
    us_cache *s = self->cache;

    show_slabs(self);
    EXPECT(now_playing, us_cache_flush(s, -1) == US_OK, "flush: %s", us_last_error());
    show_slabs(self);
    for (uint32_t node = 0; node < a->nodes; node++) {
        const struct us_kmem_cache_node *n = us_node(s, node);
        uint64_t slabs = n->nr_slabs;
        uint64_t left = n->total_objects - owned_objects(a, node, s->id);

        for (; left > 0; left--) {
            void *p = us_alloc_on(s, US_GFP_THISNODE | US_GFP_EMERGENCY, cpu_of(self),
                                  (int)node);

            EXPECT(now_playing, p != NULL, "%llu free objects cannot be had: %s",
                   (unsigned long long)left, us_last_error());
            (void)gain(self, p, PAYLOAD);
        }
        EXPECT(now_playing, n->nr_slabs == slabs,
               "%llu free objects of a slab were not found, it took a new slab",
               (unsigned long long)(n->nr_slabs - slabs));
    }
    EXPECT(now_playing, trouble[0] == '\0', "%s", trouble);
}

static void lets_all_go(struct actor *self)
{
    for (int i = 0; i < thing_count; i++) {
        while (holds(self, i)) {
            let_go(self, i);
        }
    }
    EXPECT(now_playing, trouble[0] == '\0', "%s", trouble);
}

static void removes_caches(struct actor *self)
{
    static const char *const names[] = {"first",  "second", "third",
                                        "tables", "merged", "alias"};
    static const char *const sizes[] = {"kmalloc-512", "kmalloc-1k"};
    us_cache *s;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        us_err err = us_cache_destroy(self->arena, names[i]);

        EXPECT(now_playing, err == US_OK || err == US_ENOCACHE,
               "'%s' cannot be destroyed: %s", names[i], us_last_error());
    }
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        us_err err = us_cache_find(self->arena, sizes[i], &s);

        err = err == US_OK ? us_cache_shrink(s) : err;
        EXPECT(now_playing, err == US_OK || err == US_ENOCACHE, "'%s': %s", sizes[i],
               us_last_error());
    }
}

static void checks_all_free(struct actor *self)
{
    struct us_arena *a = self->arena;

    for (uint32_t node = 0; node < a->nodes; node++) {
        struct us_pages_info info;

        (void)us_pages_stat(a, node, &info);
        EXPECT(now_playing, info.free_pages == info.pages,
               "of %llu pages %llu are free at the end", (unsigned long long)info.pages,
               (unsigned long long)info.free_pages);
    }
    EXPECT(now_playing, us_validate(a, NULL, complain, NULL) == 0,
           "validate() at the end");
}

/* ---- after a schedule ---- */

static bool choose_drainer(void)
{
    static const int order[ACTORS] = {REAPER, 2, 1, 0};

    for (int i = 0; i < ACTORS; i++) {
        drainer = order[i];
        if (lives(drainer)) {
            return true;
        }
    }
    return false;
}

static void check(const struct schedule *s)
{
    now_playing = s;
    for (int who = 2; who < ACTORS; who++) {
        if (!actors[who].begun) {
            actors[who].work = NULL; /* had no turn */
        }
    }
    finish(s, 0, ACTORS - 1);
    if (!choose_drainer()) {
        return; /* all are dead */
    }
    as(drainer, settles_the_dead);
    EXPECT(s, trouble[0] == '\0', "%s", trouble);
    as(drainer, checks_things);
    as(drainer, takes_all_free);
    for (int who = 0; who < ACTORS; who++) {
        if (lives(who)) {
            as(who, lets_all_go);
        }
    }
    as(drainer, removes_caches);
    as(drainer, checks_all_free);
}

#endif
