/* SPDX-License-Identifier: MIT */
/*
 * world.h - an arena that is small enough to explore: a few pages of one array, one
 * cache with two slabs of a few objects, and a participant per thread.
 *
 * Page 0 header, 1 commit bitmap, 2 threads, 3 processes, 4 cache, 5 node, 6 tags,
 * 7 holders, 8 page descriptors; objects from page WORLD_FIRST on.
 */
#ifndef WORLD_H
#define WORLD_H

#include <string.h>

#include "cache/hold.h"
#include "order.h"

#define WORLD_FIRST   9
#define WORLD_PAGES   16
#define WORLD_OBJECTS 2 /* of a slab */
#define WORLD_SIZE    64

/* What the engine's other files would define. Functions that a model does not reach are
 * not there at all: a call of one is a crash. */
ptrdiff_t us_cpu_id_offset;
_Thread_local struct us_tls us_tls;

us_err us_fail(us_err code, const char *format, ...)
{
    (void)format;
    return code;
}

struct us_thread *us_thread_at(const struct us_arena *a, uint32_t slot)
{
    return (struct us_thread *)us_at(a, a->at.threads) + slot;
}

uint32_t us_thread_slot(const struct us_arena *a, const struct us_thread *t)
{
    return (uint32_t)(t - us_thread_at(a, 0));
}

/* A bit for each participant of whom the kernel says that it is dead. */
static uint32_t world_dead;

bool us_process_alive(const struct us_arena *a, uint32_t slot)
{
    (void)a;
    return !(world_dead >> slot & 1);
}

static struct {
    _Alignas(4096) char bytes[WORLD_PAGES << US_PAGE_SHIFT];
} world;

/* Thread i is participant i, with a handle of arena and cache of its own. */
static struct us_self world_self[ORDER_THREADS];
static struct us_arena world_arena[ORDER_THREADS];
static struct us_cache world_cache[ORDER_THREADS];

#define WORLD_AT(page) ((void *)(world.bytes + ((page) << US_PAGE_SHIFT)))

static inline struct us_thread *world_thread(int i)
{
    return (struct us_thread *)WORLD_AT(2) + i;
}

static inline struct us_kmem_cache_cpu *world_cpu(void)
{
    return WORLD_AT(4);
}

static inline struct us_kmem_cache_node *world_node(void)
{
    return WORLD_AT(5);
}

static inline struct us_page *world_page(uint32_t page)
{
    return world_arena[0].pages + page;
}

static inline uint64_t world_object(uint32_t page, uint32_t index)
{
    return us_page_offset(page) + index * WORLD_SIZE;
}

static inline void world_arena_set(int i)
{
    struct us_arena *a = &world_arena[i];

    world_self[i].id = 1;
    world_self[i].owner = (uint16_t)(i + 1);
    a->base = world.bytes;
    a->self = &world_self[i];
    a->pages = (struct us_page *)WORLD_AT(8);
    a->data_start = us_page_offset(WORLD_FIRST);
    a->data_bytes = (WORLD_PAGES - WORLD_FIRST) << US_PAGE_SHIFT;
    a->first_page = WORLD_FIRST;
    a->end_page = WORLD_PAGES;
    a->cpus = a->nodes = 1;
    a->header = WORLD_AT(0);
    a->at.commit_map = us_page_offset(1);
    a->at.threads = us_page_offset(2);
    a->at.processes = us_page_offset(3);
    a->at.node_pages = us_page_offset(5);
    a->at.orders = 3;
    a->at.first_page = WORLD_FIRST;
    a->at.data_pages = WORLD_PAGES - WORLD_FIRST;
    a->config.node_pages = a->at.data_pages;
    for (int plane = 0; plane < US_TAG_PLANES; plane++) {
        a->at.holders[plane] = us_page_offset(7);
    }
}

static inline void world_cache_set(int i)
{
    struct us_cache *s = &world_cache[i];

    s->base = world.bytes;
    s->self = &world_self[i];
    s->cpus = WORLD_AT(4);
    s->cpu_count = 1;
    s->tag_shift = 6;
    s->tags = WORLD_AT(6);
    s->data_start = world_arena[i].data_start;
    s->span = world_arena[i].data_bytes - WORLD_SIZE;
    s->slab_bytes = WORLD_OBJECTS * WORLD_SIZE;
    s->size = s->object_size = WORLD_SIZE;
    s->reciprocal = UINT64_MAX / WORLD_SIZE + 1;
    s->arena = &world_arena[i];
    s->shared = (struct us_kmem_cache *)((char *)WORLD_AT(4) + 2048);
    s->node_array = WORLD_AT(5);
    s->id = 1;
    s->objects = s->min_objects = WORLD_OBJECTS;
}

static inline void world_begin(void)
{
    struct us_header *header = WORLD_AT(0);

    memset(&world, 0, sizeof(world));
    world_dead = 0;
    memset(WORLD_AT(1), 0xff, 64); /* all is committed */
    header->thread_high = ORDER_THREADS;
    for (int i = 0; i < ORDER_THREADS; i++) {
        world_arena_set(i);
        world_cache_set(i);
        world_thread(i)->state = (uint32_t)i + 1;
    }
    world_cache[0].shared->state = US_CACHE_LIVE;
    world_cache[0].shared->min_partial = 5; /* no slab is given back */
    world_cpu()->freelist.hi = us_init_tid(0, 0);
}

/* All objects of the slab, linked: first to last. */
static inline uint64_t world_chain(uint32_t page)
{
    for (uint32_t i = 0; i < WORLD_OBJECTS; i++) {
        us_link_set(&world_cache[0], world_object(page, i),
                    i + 1 < WORLD_OBJECTS ? world_object(page, i + 1) : 0);
    }
    return world_object(page, 0);
}

/* A slab at `page` with all objects in use, as a CPU has them. */
static inline void world_slab(uint32_t page)
{
    struct us_slab_word word = {
        .inuse = WORLD_OBJECTS, .objects = WORLD_OBJECTS, .frozen = true};
    struct us_page *p = world_page(page);

    p->word = us_page_word_next(0, US_BLOCK_SLAB, 0, 0);
    p->cache = 1;
    p->slab = us_slab_pack(p->slab, word);
}

/* The words of a slab at `page`: its own, tags and links. Payloads from `payload` on.
 */
static inline void world_slab_words(uint32_t page, unsigned payload)
{
    order_word(&world_page(page)->slab, 16);
    for (uint32_t i = 0; i < WORLD_OBJECTS; i++) {
        uint64_t object = world_object(page, i);

        order_word(us_tag(&world_cache[0], object), 2);
        order_word(world.bytes + object, 8);
        order_payload(payload + i);
    }
}

/* Number of an object in order_touch(): slabs at WORLD_FIRST and the page after. */
static inline unsigned world_payload(uint64_t object)
{
    return (unsigned)((object >> US_PAGE_SHIFT) - WORLD_FIRST) * WORLD_OBJECTS +
           (unsigned)(object % US_PAGE_SIZE) / WORLD_SIZE;
}

/* Objects on the chain, each counted in seen[]; end() only. */
static inline void world_count(uint64_t chain, unsigned *seen)
{
    for (int steps = 0; chain != 0; steps++) {
        order_assert(steps < 16);
        order_assert((chain >> US_PAGE_SHIFT) - WORLD_FIRST < 2);
        seen[world_payload(chain)]++;
        chain = us_link_get(&world_cache[0], chain);
    }
}

#endif
