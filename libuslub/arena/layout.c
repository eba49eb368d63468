/* SPDX-License-Identifier: MIT */
/* layout.c - offsets from a config, in one pass; see layout.h. */
#include "arena/layout.h"

#include <string.h>

#define ROUND_UP(x, a) (((x) + (uint64_t)(a) - 1) / (a) * (a))

/* Gives `bytes` at *at, page aligned, and moves *at behind them. */
static uint64_t take(uint64_t *at, uint64_t bytes)
{
    uint64_t offset = *at;

    *at = ROUND_UP(offset + bytes, US_PAGE_SIZE);
    return offset;
}

static bool config_makes_sense(const struct us_config *config)
{
    if (config->cpus < 1 || config->cpus > US_CPUS_MAX || config->nodes < 1 ||
        config->nodes > US_NODES_MAX || config->order_cpus < 1) {
        return false;
    }
    if (config->node_pages < 1 || config->node_pages > (1ULL << 32) / config->nodes ||
        config->reserve_pages > config->node_pages || config->caches_max < 1 ||
        config->caches_max > (1u << 20)) {
        return false;
    }
    for (uint32_t cpu = 0; cpu < config->cpus; cpu++) {
        if (config->cpu_node[cpu] >= config->nodes) {
            return false;
        }
    }
    return true;
}

static void place_bitmaps(const struct us_config *config, struct us_layout *ret,
                          uint64_t *at)
{
    uint64_t start = *at;

    ret->orders = 1;
    while (ret->orders < US_ORDERS && config->node_pages >> ret->orders) {
        ret->orders++;
    }
    for (uint32_t node = 0; node < config->nodes; node++) {
        for (uint32_t order = 0; order < ret->orders; order++) {
            ret->bitmap[node][order] = *at;
            *at += ROUND_UP(config->node_pages >> order, 64) / 8;
        }
    }
    *at = start + ROUND_UP(*at - start, US_PAGE_SIZE);
}

bool us_layout_compute(const struct us_config *config, struct us_layout *ret)
{
    uint64_t at = US_PAGE_SIZE, late = 0, buckets = 64;

    if (!config_makes_sense(config)) {
        return false;
    }
    memset(ret, 0, sizeof(*ret));
    ret->data_pages = config->node_pages * config->nodes;
    ret->cache_stride = (uint32_t)(sizeof(struct us_kmem_cache) +
                                   config->cpus * sizeof(struct us_kmem_cache_cpu) +
                                   config->nodes * sizeof(struct us_kmem_cache_node));
    while (buckets < config->caches_max / 2) {
        buckets *= 2;
    }
    ret->bucket_mask = (uint32_t)buckets - 1;

    ret->processes = take(&at, US_PROCESSES * sizeof(struct us_process));
    ret->node_pages = take(&at, config->nodes * sizeof(struct us_node_pages));
    ret->buckets = take(&at, buckets * sizeof(uint32_t));
    place_bitmaps(config, ret, &at);

    /* The commit bitmap covers itself and what follows: size what follows first. */
    uint64_t threads =
        take(&late, US_THREADS * sizeof(struct us_thread) + US_PAGE_SIZE);
    uint64_t names =
        take(&late, (uint64_t)config->caches_max * 2 * sizeof(struct us_name));
    uint64_t caches = take(&late, (uint64_t)config->caches_max * ret->cache_stride);
    uint64_t outboxes =
        take(&late, (uint64_t)US_PROCESSES * US_OUTBOX * sizeof(struct us_pair));
    uint64_t channels = take(&late, US_CHANNELS * sizeof(uint64_t));
    uint64_t pages = take(&late, ret->data_pages * sizeof(struct us_page));
    uint64_t tags[US_TAG_PLANES];
    for (uint32_t plane = 0; plane < US_TAG_PLANES; plane++) {
        tags[plane] =
            take(&late, ret->data_pages * US_TAG_STRIDE(plane) + US_PAGE_SIZE);
    }
    uint64_t behind = ret->data_pages * US_PAGE_SIZE, holders[US_TAG_PLANES];
    for (uint32_t plane = 0; plane < US_TAG_PLANES; plane++) {
        holders[plane] = take(&behind, ret->data_pages * US_HOLDERS_STRIDE(plane));
    }
    uint64_t most = at + late + US_DATA_ALIGN + behind;
    most += most / US_PAGE_SIZE / 8 + US_PAGE_SIZE;
    ret->commit_map = take(&at, most / US_PAGE_SIZE / 8 + 8);
    ret->prefix_end = at;

    ret->threads = at + threads + US_THREADS_COLOUR;
    ret->names = at + names;
    ret->caches = at + caches;
    ret->outboxes = at + outboxes;
    ret->channels = at + channels;
    ret->pages = at + pages;
    for (uint32_t plane = 0; plane < US_TAG_PLANES; plane++) {
        ret->tags[plane] = at + tags[plane] + US_TAGS_COLOUR;
    }
    ret->data = ROUND_UP(at + late, US_DATA_ALIGN);
    for (uint32_t plane = 0; plane < US_TAG_PLANES; plane++) {
        ret->holders[plane] = ret->data + holders[plane];
    }
    ret->end = ret->data + behind;
    ret->first_page = (uint32_t)(ret->data >> US_PAGE_SHIFT);
    return ret->end < (1ULL << US_OFFSET_BITS) &&
           ret->end >> US_PAGE_SHIFT < UINT32_MAX;
}

/* FNV-1a: finds accidents, not attackers. */
uint64_t us_header_checksum(const struct us_header *header)
{
    const unsigned char *bytes = (const unsigned char *)header;
    uint64_t hash = 0xcbf29ce484222325ULL;

    for (size_t i = 0; i < offsetof(struct us_header, checksum); i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3ULL;
    }
    return hash;
}
