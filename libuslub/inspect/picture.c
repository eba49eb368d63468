/* SPDX-License-Identifier: MIT */
/* picture.c - see picture.h. Every walk is bounded by what the arena can hold. */
#include "inspect/picture.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/cache.h"

static us_err no_memory(void)
{
    return us_fail(US_ENOMEM, "no memory for a picture of a cache");
}

/* ---- slabs ---- */

static us_err add_slab(struct us_picture *picture, uint32_t page, uint32_t order)
{
    struct us_cache *s = picture->cache;
    const struct us_page *p = s->arena->pages + page;
    struct us_slab_word word = us_slab_read(us_slab_load(p));
    struct us_picture_slab *slab;

    if (picture->slab_count == picture->slab_room) {
        uint32_t room = picture->slab_room ? picture->slab_room * 2 : 16;

        slab = realloc(picture->slabs, room * sizeof(*slab));
        if (slab == NULL) {
            return no_memory();
        }
        picture->slabs = slab;
        picture->slab_room = room;
    }
    slab = &picture->slabs[picture->slab_count++];
    memset(slab, 0, sizeof(*slab));
    slab->page = page;
    slab->whole = true;
    slab->listed = p->flags & US_PAGE_PARTIAL;
    slab->chain_count = p->chain_count;
    slab->info.page = page - s->arena->first_page;
    slab->info.slab = us_load_relaxed32(&p->serial);
    slab->info.node = us_page_node(s->arena, page);
    slab->info.order = order;
    slab->info.objects = word.objects <= s->objects ? word.objects : s->objects;
    slab->info.inuse = word.inuse;
    slab->info.frozen = word.frozen;
    slab->info.pfmemalloc = p->flags & US_PAGE_PFMEMALLOC;
    slab->info.place = US_PLACE_FULL;
    if (word.mark == US_MARK_STRAY) {
        slab->info.place = US_PLACE_STRAY;
        slab->places = 1;
    }
    return US_OK;
}

static us_err find_slabs(struct us_picture *picture)
{
    struct us_cache *s = picture->cache;
    struct us_arena *a = s->arena;
    us_err err = US_OK;

    for (uint32_t page = a->first_page; page < a->end_page && err == US_OK;) {
        uint32_t order;
        enum us_block_state state = us_block_state(a, page, &order);

        if (state == US_BLOCK_TAIL || order >= a->at.orders) {
            page++;
            continue;
        }
        if (state == US_BLOCK_SLAB &&
            us_load_relaxed32(&a->pages[page].cache) == s->id &&
            a->pages[page].cache_gen == (uint16_t)s->generation &&
            us_slab_read(us_slab_load(a->pages + page)).mark != US_MARK_POISON) {
            err = add_slab(picture, page, order);
        }
        page += us_block_step(a, state, order);
    }
    return err;
}

static struct us_picture_slab *slab_of(const struct us_picture *picture, uint32_t page)
{
    uint32_t low = 0, high = picture->slab_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (picture->slabs[middle].page == page) {
            return &picture->slabs[middle];
        }
        if (picture->slabs[middle].page < page) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

/* Indexes along a freelist; false if it does not end inside the slab. */
static us_err walk(struct us_picture *picture, const struct us_picture_slab *slab,
                   uint64_t object, uint16_t **ret, uint32_t *count, bool *whole)
{
    const struct us_cache *s = picture->cache;

    *count = 0;
    *whole = true;
    if (object == 0) {
        return US_OK;
    }
    *ret = calloc(slab->info.objects ? slab->info.objects : 1, sizeof(**ret));
    if (*ret == NULL) {
        return no_memory();
    }
    while (object != 0) {
        uint64_t link = 0, where = object + s->offset;
        uint32_t index;

        if (*count >= slab->info.objects ||
            !us_object_index(s, slab->page, slab->info.objects, object, &index) ||
            pread(s->arena->fd, &link, sizeof(link), (off_t)where) !=
                (ssize_t)sizeof(link)) {
            *whole = false;
            return US_OK;
        }
        (*ret)[(*count)++] = (uint16_t)index;
        object = us_link_code(s, where, link);
    }
    return US_OK;
}

static us_err walk_slabs(struct us_picture *picture)
{
    us_err err = US_OK;

    for (uint32_t i = 0; i < picture->slab_count && err == US_OK; i++) {
        struct us_picture_slab *slab = &picture->slabs[i];
        struct us_page *p = picture->cache->arena->pages + slab->page;

        err = walk(picture, slab, us_slab_read(us_slab_load(p)).freelist, &slab->free,
                   &slab->info.free_count, &slab->whole);
        slab->info.free_index = slab->free;
    }
    return err;
}

/* ---- places ---- */

static void found_at(struct us_picture_slab *slab, enum us_place place, uint32_t index)
{
    slab->places++;
    slab->info.place = place;
    slab->info.place_index = index;
}

static us_err look_at_cpu(struct us_picture *picture, uint32_t number)
{
    struct us_kmem_cache_cpu *c = us_cpu(picture->cache, number);
    struct us_active active = us_active_read(us_load_acquire64(&c->active));
    struct us_picture_cpu *cpu = &picture->cpus[number];
    struct us_picture_slab *slab = slab_of(picture, active.page);
    us_err err = US_OK;

    cpu->slab = -1;
    cpu->whole = active.page == 0 || slab != NULL;
    if (slab != NULL) {
        cpu->slab = slab->info.slab;
        cpu->page = slab->page;
        found_at(slab, US_PLACE_CPU, number);
        err = walk(picture, slab, us_load_acquire64(&c->freelist.lo), &cpu->free,
                   &cpu->free_count, &cpu->whole);
    }
    cpu->chain = calloc(picture->slab_count + 1, sizeof(*cpu->chain));
    if (cpu->chain == NULL) {
        return no_memory();
    }
    for (uint32_t page = us_load_acquire32(&c->partial); page != 0;) {
        slab = slab_of(picture, page);
        if (slab == NULL || cpu->chain_count >= picture->slab_count) {
            cpu->whole = false;
            break;
        }
        found_at(slab, US_PLACE_CHAIN, number);
        cpu->chain[cpu->chain_count++] = slab->info.slab;
        page = picture->cache->arena->pages[page].chain_next;
    }
    return err;
}

static us_err look_at_node(struct us_picture *picture, uint32_t number)
{
    struct us_kmem_cache_node *n = us_node(picture->cache, number);
    struct us_picture_node *node = &picture->nodes[number];
    uint32_t before = 0;

    node->slabs = us_load_relaxed64(&n->nr_slabs);
    node->objects = us_load_relaxed64(&n->total_objects);
    node->nr_partial = us_load_relaxed32(&n->nr_partial);
    node->whole = true;
    node->partial = calloc(picture->slab_count + 1, sizeof(*node->partial));
    if (node->partial == NULL) {
        return no_memory();
    }
    for (uint32_t page = n->head; page != 0;) {
        struct us_picture_slab *slab = slab_of(picture, page);

        if (slab == NULL || node->partial_count >= picture->slab_count ||
            picture->cache->arena->pages[page].prev != before) {
            node->whole = false;
            return US_OK;
        }
        found_at(slab, US_PLACE_NODE, number);
        node->partial[node->partial_count++] = slab->info.slab;
        before = page;
        page = picture->cache->arena->pages[page].next;
    }
    node->whole = n->tail == before;
    return US_OK;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = ((const struct us_picture_slab *)a)->info.slab;
    uint32_t y = ((const struct us_picture_slab *)b)->info.slab;

    return x < y ? -1 : x > y;
}

/* ---- calls ---- */

us_err us_picture_take(us_cache *cache, us_picture **ret)
{
    struct us_picture *picture = calloc(1, sizeof(*picture));
    us_err err = us_cache_alive(cache);

    if (picture == NULL || err != US_OK) {
        free(picture);
        return err != US_OK ? err : no_memory();
    }
    picture->cache = cache;
    picture->cpus = calloc(cache->arena->cpus, sizeof(*picture->cpus));
    picture->nodes = calloc(cache->arena->nodes, sizeof(*picture->nodes));
    err = picture->cpus == NULL || picture->nodes == NULL ? no_memory()
                                                          : find_slabs(picture);
    if (err == US_OK) {
        err = walk_slabs(picture);
    }
    for (uint32_t cpu = 0; err == US_OK && cpu < cache->arena->cpus; cpu++) {
        err = look_at_cpu(picture, cpu);
    }
    for (uint32_t node = 0; err == US_OK && node < cache->arena->nodes; node++) {
        err = look_at_node(picture, node);
    }
    if (err != US_OK) {
        us_picture_free(picture);
        return err;
    }
    if (picture->slab_count != 0) {
        qsort(picture->slabs, picture->slab_count, sizeof(*picture->slabs), by_number);
    }
    *ret = picture;
    return US_OK;
}

void us_picture_free(us_picture *picture)
{
    for (uint32_t i = 0; i < picture->slab_count; i++) {
        free(picture->slabs[i].free);
    }
    for (uint32_t i = 0; picture->cpus != NULL && i < picture->cache->arena->cpus;
         i++) {
        free(picture->cpus[i].free);
        free(picture->cpus[i].chain);
    }
    for (uint32_t i = 0; picture->nodes != NULL && i < picture->cache->arena->nodes;
         i++) {
        free(picture->nodes[i].partial);
    }
    free(picture->slabs);
    free(picture->cpus);
    free(picture->nodes);
    free(picture);
}

bool us_picture_slab(const us_picture *picture, uint32_t i, struct us_slab_info *ret)
{
    if (i >= picture->slab_count) {
        return false;
    }
    *ret = picture->slabs[i].info;
    return true;
}

int64_t us_picture_cpu(const us_picture *picture, uint32_t cpu,
                       const uint16_t **freelist, uint32_t *freelist_count,
                       const uint32_t **chain, uint32_t *chain_count)
{
    *freelist = picture->cpus[cpu].free;
    *freelist_count = picture->cpus[cpu].free_count;
    *chain = picture->cpus[cpu].chain;
    *chain_count = picture->cpus[cpu].chain_count;
    return picture->cpus[cpu].slab;
}

void us_picture_node(const us_picture *picture, uint32_t node, const uint32_t **partial,
                     uint32_t *partial_count, uint64_t *slabs, uint64_t *objects)
{
    *partial = picture->nodes[node].partial;
    *partial_count = picture->nodes[node].partial_count;
    *slabs = picture->nodes[node].slabs;
    *objects = picture->nodes[node].objects;
}
