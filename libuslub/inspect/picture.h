/* SPDX-License-Identifier: MIT */
/*
 * picture.h - one cache as it is now, read once into private memory.
 *
 * Reads free objects with pread(), never through the mapping: a slab may be given back
 * to the system while we look at it. Changes nothing, takes no lock.
 */
#ifndef US_INSPECT_PICTURE_H
#define US_INSPECT_PICTURE_H

#include "slab/slab.h"

struct us_picture_slab {
    struct us_slab_info info;
    uint32_t page;   /* absolute */
    uint32_t places; /* how often it was found somewhere */
    uint32_t chain_count;
    bool listed; /* marked as being on its node's list */
    bool whole;  /* its freelist ends, inside the slab */
    uint16_t *free;
};

struct us_picture_cpu {
    int64_t slab; /* creation number, -1: none */
    uint32_t page;
    uint32_t free_count, chain_count;
    uint16_t *free;
    uint32_t *chain;
    bool whole;
};

struct us_picture_node {
    uint32_t partial_count, nr_partial;
    uint32_t *partial;
    uint64_t slabs, objects;
    bool whole; /* the list ends where `tail` says, links match both ways */
};

struct us_picture {
    struct us_cache *cache;
    struct us_picture_slab *slabs; /* by page while being taken, then by number */
    uint32_t slab_count, slab_room;
    struct us_picture_cpu *cpus;
    struct us_picture_node *nodes;
};

#endif
