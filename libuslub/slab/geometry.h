/* SPDX-License-Identifier: MIT */
/*
 * geometry.h - sizes, offsets, orders and limits of a cache, from what its user asked
 * for.
 *
 * Pure arithmetic: no arena, no state. Debug layouts are computed too, although caches
 * with debug flags cannot be created yet.
 */
#ifndef US_SLAB_GEOMETRY_H
#define US_SLAB_GEOMETRY_H

#include "arena/layout.h"
#include "base/error.h"

#define US_WORD            8u
#define US_CACHE_LINE      64u
#define US_TRACK_BYTES     32u
#define US_SLAB_MAX_ORDER  3u /* PAGE_ALLOC_COSTLY_ORDER */
#define US_KMALLOC_MAX     8192u
#define US_KMALLOC_INDEXES 14u

/* Linux: calculate_alignment(), mm/slab_common.c, v6.18. */
uint32_t us_calculate_alignment(uint32_t flags, uint32_t align, uint64_t object_size);
/* Linux: calculate_order(), mm/slub.c, v6.18; orders_max bounds what the arena can
 * give. */
us_err us_calculate_order(uint64_t size, uint32_t cpus, uint32_t orders, uint32_t *ret);
us_err us_calculate_sizes(const struct us_cache_config *config, bool has_ctor,
                          uint32_t cpus, uint32_t orders, struct us_geometry *ret);

/* Linux: get_order(): smallest order that holds n bytes. */
uint32_t us_get_order(uint64_t bytes);
uint64_t us_order_objects(uint32_t order, uint64_t size);
uint32_t us_cpu_partial_slabs(uint32_t cpu_partial, uint32_t objects);
/* Size class of a request of 1..8192 bytes, and the bytes of a class. */
uint32_t us_kmalloc_index(uint64_t bytes);
uint32_t us_kmalloc_size(uint32_t index);

#endif
