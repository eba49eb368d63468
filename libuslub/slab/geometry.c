/* SPDX-License-Identifier: MIT */
/* geometry.c - see geometry.h. Linux: calculate_sizes() and friends, mm/slub.c, v6.18.
 */
#include "slab/geometry.h"

#include <string.h>

static uint64_t round_up(uint64_t x, uint64_t to)
{
    return (x + to - 1) / to * to;
}

static uint32_t log2_floor(uint64_t x)
{
    return 63u - (uint32_t)__builtin_clzll(x);
}

static uint32_t bits_of(uint64_t x) /* Linux: fls() */
{
    return x == 0 ? 0 : log2_floor(x) + 1;
}

uint32_t us_get_order(uint64_t bytes)
{
    uint64_t pages = (bytes + US_PAGE_SIZE - 1) >> US_PAGE_SHIFT;

    return pages <= 1 ? 0 : log2_floor(pages - 1) + 1;
}

uint64_t us_order_objects(uint32_t order, uint64_t size)
{
    return ((uint64_t)US_PAGE_SIZE << order) / size;
}

uint32_t us_calculate_alignment(uint32_t flags, uint32_t align, uint64_t object_size)
{
    if (flags & US_HWCACHE_ALIGN) {
        uint32_t line = US_CACHE_LINE;

        while (object_size <= line / 2) {
            line /= 2;
        }
        align = align > line ? align : line;
    }
    return (uint32_t)round_up(align > US_WORD ? align : US_WORD, US_WORD);
}

static uint32_t order_of_objects(uint64_t size, uint64_t objects, uint32_t *fewest)
{
    uint32_t order = us_get_order(size * objects);

    *fewest = order;
    if (us_order_objects(order, size) > US_OBJECTS_MAX) {
        *fewest = us_get_order(size * US_OBJECTS_MAX) - 1;
        return US_ORDERS; /* no fraction to try: the limit decides */
    }
    return order;
}

us_err us_calculate_order(uint64_t size, uint32_t cpus, uint32_t orders, uint32_t *ret)
{
    uint64_t objects = 4 * (bits_of(cpus) + 1);
    uint64_t most = us_order_objects(US_SLAB_MAX_ORDER, size);
    uint32_t fewest, lowest;

    if (most < 1) {
        most = 1;
    }
    lowest = order_of_objects(size, objects < most ? objects : most, &fewest);
    if (lowest == US_ORDERS) {
        *ret = fewest;
        return US_OK;
    }
    for (uint32_t fraction = 16; fraction > 1; fraction /= 2) {
        for (uint32_t order = lowest; order <= US_SLAB_MAX_ORDER; order++) {
            uint64_t bytes = (uint64_t)US_PAGE_SIZE << order;

            if (bytes % size <= bytes / fraction) {
                *ret = order;
                return US_OK;
            }
        }
    }
    *ret = us_get_order(size);
    if (*ret >= orders) {
        return us_fail(
            US_EBADSIZE,
            "objects of %llu bytes do not fit: the largest block has %llu bytes; "
            "create a larger arena",
            (unsigned long long)size, (unsigned long long)US_PAGE_SIZE << (orders - 1));
    }
    return US_OK;
}

/* offset, inuse, red_left_pad and size of a slot. */
static void place_metadata(uint64_t object_size, uint32_t flags, bool has_ctor,
                           struct us_geometry *g)
{
    bool red = flags & US_RED_ZONE, poison = flags & US_POISON,
         rcu = flags & US_TYPESAFE_BY_RCU;
    bool user = flags & US_STORE_USER, original = user && (flags & US_KMALLOC);
    uint64_t size = round_up(object_size, US_WORD);

    if (red && size == object_size) {
        size += US_WORD;
    }
    g->inuse = (uint32_t)size;
    if (rcu || poison || has_ctor || (red && (object_size < US_WORD || original))) {
        g->offset = (uint32_t)size;
        size += US_WORD;
    } else {
        g->offset = (uint32_t)(object_size / 2 / US_WORD * US_WORD);
    }
    if (user) {
        size += 2 * US_TRACK_BYTES;
        size += original ? 4 : 0;
    }
    g->red_left_pad = 0;
    if (red) {
        g->red_left_pad = (uint32_t)round_up(US_WORD, g->align);
        size += US_WORD + g->red_left_pad;
    }
    g->size = round_up(size, g->align);
}

static void choose_limits(struct us_geometry *g, bool debug)
{
    uint32_t half = log2_floor(g->size) / 2;

    g->min_partial = half < 5 ? 5 : half > 10 ? 10 : half;
    g->cpu_partial = debug             ? 0
                     : g->size >= 4096 ? 6
                     : g->size >= 1024 ? 24
                     : g->size >= 256  ? 52
                                       : 120;
}

uint32_t us_cpu_partial_slabs(uint32_t cpu_partial, uint32_t objects)
{
    uint64_t slabs = (2ULL * cpu_partial + objects - 1) / objects;

    return slabs > UINT32_MAX ? UINT32_MAX : (uint32_t)slabs;
}

static us_err choose_orders(const struct us_cache_config *config, uint32_t cpus,
                            uint32_t orders, struct us_geometry *g)
{
    uint64_t objects;
    us_err err;

    if (config->order < 0) {
        err = us_calculate_order(g->size, cpus, orders, &g->order);
        if (err != US_OK) {
            return err;
        }
    } else {
        g->order = (uint32_t)config->order;
    }
    g->min_order = us_get_order(g->size);
    if (g->order >= orders || g->order < g->min_order) {
        return us_fail(
            US_EBADARG,
            "slab order %u for slots of %llu bytes: orders %u to %u are possible "
            "here",
            g->order, (unsigned long long)g->size, g->min_order, orders - 1);
    }
    objects = us_order_objects(g->order, g->size);
    if (objects > US_OBJECTS_MAX) {
        return us_fail(US_EBADARG,
                       "slab order %u holds %llu slots of %llu bytes: at most %d are "
                       "possible; ask for a smaller order",
                       g->order, (unsigned long long)objects,
                       (unsigned long long)g->size, US_OBJECTS_MAX);
    }
    g->objects = (uint32_t)objects;
    g->min_objects = (uint32_t)us_order_objects(g->min_order, g->size);
    return US_OK;
}

us_err us_calculate_sizes(const struct us_cache_config *config, bool has_ctor,
                          uint32_t cpus, uint32_t orders, struct us_geometry *ret)
{
    us_err err;

    if (config->object_size == 0 ||
        config->object_size > UINT32_MAX - 4 * US_PAGE_SIZE) {
        return us_fail(US_EBADSIZE, "object size %llu: 1 byte to 4 GiB are possible",
                       (unsigned long long)config->object_size);
    }
    if ((config->align & (config->align - 1)) != 0 ||
        config->align > (config->flags & US_KMALLOC ? US_KMALLOC_MAX : US_PAGE_SIZE)) {
        return us_fail(US_EBADARG,
                       "alignment %u: a power of two up to %u is expected, or 0",
                       config->align, US_PAGE_SIZE);
    }
    memset(ret, 0, sizeof(*ret));
    ret->object_size = config->object_size;
    ret->align =
        us_calculate_alignment(config->flags, config->align, config->object_size);
    place_metadata(config->object_size, config->flags, has_ctor, ret);
    err = choose_orders(config, cpus, orders, ret);
    if (err != US_OK) {
        return err;
    }
    choose_limits(ret, config->flags & (US_CONSISTENCY_CHECKS | US_RED_ZONE |
                                        US_POISON | US_STORE_USER));
    if (config->min_partial >= 0) {
        ret->min_partial = (uint32_t)config->min_partial;
    }
    if (config->cpu_partial >= 0) {
        ret->cpu_partial = (uint32_t)config->cpu_partial;
    }
    ret->cpu_partial_slabs = us_cpu_partial_slabs(ret->cpu_partial, ret->objects);
    return US_OK;
}

us_err us_geometry(const struct us_cache_config *config, uint32_t cpus,
                   struct us_geometry *ret)
{
    return us_calculate_sizes(config, config->image != NULL || config->ctor != NULL,
                              cpus, US_ORDERS, ret);
}

uint32_t us_kmalloc_index(uint64_t bytes)
{
    if (bytes > 192) {
        return bits_of(bytes - 1);
    }
    if (bytes > 128) {
        return 2;
    }
    if (bytes > 64 && bytes <= 96) {
        return 1;
    }
    return bytes <= 8 ? 3 : bits_of(bytes - 1);
}

uint32_t us_kmalloc_size(uint32_t index)
{
    return index == 1 ? 96 : index == 2 ? 192 : 1u << index;
}
