/* SPDX-License-Identifier: MIT */
/*
 * validate.c - every invariant by name. Finds, repairs nothing.
 *
 *   V1  a slab is in exactly one place: a CPU, a chain, its node's list, full, or a
 *       stray that waits for its node's list
 *   V2  objects - inuse of a slab == length of its own freelist
 *   V3  inuse == owned objects + objects on the CPU freelist
 *   V4  an object on a freelist is owned by nobody, and is on it once
 *   V5  frozen if and only if on a CPU or a chain, or a stray
 *   V6  a listed slab has a free object; a full one has none
 *   V7  nr_partial, nr_slabs, total_objects == what is there
 *   V8  lists end, and link both ways; chain counts step by one
 *   V9  blocks of pages tile the arena; free pages and index agree with them; free
 *       buddies are one block
 *   V10 a slab and a name belong to a live cache, which is on the list of caches; an
 *       owner is a registered participant
 *   V11 a shared object has a holder or is on its way; its holders are participants
 *   V12 transits of all objects == messages in channels + handles in outboxes
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/names.h"
#include "inspect/picture.h"
#include "share/share.h"

struct findings {
    void (*report)(const char *, void *);
    void *arg;
    uint64_t count;
    uint64_t transits;
    char where[300];
};

__attribute__((format(printf, 3, 4))) static void expect(struct findings *f, bool holds,
                                                         const char *format, ...)
{
    char text[768];
    size_t used;
    va_list args;

    if (holds) {
        return;
    }
    used = (size_t)snprintf(text, sizeof(text), "%s: ", f->where);
    va_start(args, format);
    (void)vsnprintf(text + used, sizeof(text) - used, format, args);
    va_end(args);
    f->count++;
    if (f->report != NULL) {
        f->report(text, f->arg);
    }
}

/* ---- one cache ---- */

/* Counts every index of a freelist in seen[]. */
static void see(uint8_t *seen, const uint16_t *indexes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        seen[indexes[i]] = (uint8_t)(seen[indexes[i]] < 2 ? seen[indexes[i]] + 1 : 2);
    }
}

static bool participant(const struct us_arena *a, uint16_t tag)
{
    const struct us_process *p = (const struct us_process *)us_at(a, a->at.processes);
    uint32_t owner = tag & US_TAG_OWNER;

    return owner != 0 && owner <= US_PROCESSES && !(tag & US_TAG_FREEING) &&
           us_load_relaxed32(&p[owner - 1].state) != US_PROCESS_FREE;
}

/* V11, and the second half of V10. */
static void check_owner(struct findings *f, struct us_arena *a, uint16_t tag,
                        uint64_t offset, uint32_t plane, uint32_t index)
{
    struct us_spot spot = {.holders = us_holders_at(a, plane, offset)};
    struct us_holders h;

    if (tag != US_TAG_SHARED) {
        expect(f, tag == 0 || participant(a, tag),
               "object %u belongs to 0x%x, who is no participant (V10)", index, tag);
        return;
    }
    h = us_holders_read(us_spot_pair(a, &spot));
    f->transits += h.transits;
    expect(f, !us_holders_none(h),
           "object %u is shared, but nobody holds it and it is not on its way (V11)",
           index);
    for (uint32_t slot = 0; slot < US_PROCESSES; slot++) {
        expect(f, !(h.processes >> slot & 1) || participant(a, (uint16_t)(slot + 1)),
               "object %u is held by %u, who is no participant (V11)", index, slot);
    }
}

/* V3 and V4. */
static void check_objects(struct findings *f, const struct us_picture *picture,
                          const struct us_picture_slab *slab)
{
    const struct us_cache *s = picture->cache;
    const struct us_slab_info *info = &slab->info;
    uint32_t owned = 0, on_cpu = 0;
    uint8_t *seen = calloc(info->objects + 1, 1);

    if (seen == NULL) {
        expect(f, false, "no memory to check it");
        return;
    }
    see(seen, slab->free, info->free_count);
    if (info->place == US_PLACE_CPU) {
        const struct us_picture_cpu *cpu = &picture->cpus[info->place_index];

        on_cpu = cpu->free_count;
        see(seen, cpu->free, on_cpu);
    }
    for (uint32_t i = 0; i < info->objects; i++) {
        uint16_t tag = us_load_acquire16(us_tag(s, us_object_offset(s, slab->page, i)));

        owned += tag != 0;
        expect(f, seen[i] < 2, "object %u is on its freelists twice (V4)", i);
        expect(f, seen[i] == 0 || tag == 0,
               "object %u is free but belongs to participant %d (V4)", i,
               (tag & US_TAG_OWNER) - 1);
        check_owner(f, s->arena, tag, us_object_offset(s, slab->page, i),
                    s->tag_shift - 3, i);
    }
    expect(f, info->inuse == owned + on_cpu,
           "inuse is %u, but %u objects are owned and %u on the CPU freelist (V3)",
           info->inuse, owned, on_cpu);
    free(seen);
}

static void check_slab(struct findings *f, const struct us_picture *picture,
                       const struct us_picture_slab *slab)
{
    const struct us_slab_info *info = &slab->info;
    bool of_cpu = info->place == US_PLACE_CPU || info->place == US_PLACE_CHAIN ||
                  info->place == US_PLACE_STRAY;

    expect(f, slab->whole, "its freelist leaves the slab or does not end (V8)");
    expect(f, slab->places <= 1, "it is in %u places (V1)", slab->places);
    expect(f,
           info->inuse <= info->objects &&
               info->objects - info->inuse == info->free_count,
           "%u of %u objects are in use, but %u are on the slab's freelist (V2)",
           info->inuse, info->objects, info->free_count);
    expect(f, info->frozen == of_cpu, "frozen is %d, but it is %s (V5)", info->frozen,
           of_cpu ? "a CPU's, or a stray" : "no CPU's");
    expect(f, slab->listed == (info->place == US_PLACE_NODE),
           "its mark says %s the node list (V8)", slab->listed ? "on" : "off");
    expect(f, info->place != US_PLACE_NODE || info->free_count > 0,
           "it is listed but has no free object (V6)");
    expect(f, info->place != US_PLACE_FULL || info->free_count == 0,
           "%u objects are free but it is nowhere: lost (V6)", info->free_count);
    expect(f, info->place != US_PLACE_NODE || info->place_index == info->node,
           "it is of node %u but listed on node %u (V1)", info->node,
           info->place_index);
    expect(f,
           info->place != US_PLACE_STRAY ||
               us_load_relaxed32(&us_node(picture->cache, info->node)->list_lock) != 0,
           "it waits for its node's list, whose lock nobody holds (V1)");
    check_objects(f, picture, slab);
}

static void check_lists(struct findings *f, const struct us_picture *picture)
{
    const struct us_arena *a = picture->cache->arena;

    for (uint32_t cpu = 0; cpu < a->cpus; cpu++) {
        const struct us_picture_cpu *c = &picture->cpus[cpu];

        expect(f, c->whole, "CPU %u: its freelist or chain leads astray (V8)", cpu);
        for (uint32_t i = 0; i < c->chain_count; i++) {
            for (uint32_t j = 0; j < picture->slab_count; j++) {
                const struct us_picture_slab *slab = &picture->slabs[j];

                expect(f,
                       slab->info.slab != c->chain[i] ||
                           slab->chain_count == c->chain_count - i,
                       "CPU %u: element %u of its chain says %u follow, %u do (V8)",
                       cpu, i, slab->chain_count, c->chain_count - i);
            }
        }
    }
    for (uint32_t node = 0; node < a->nodes; node++) {
        const struct us_picture_node *n = &picture->nodes[node];
        uint64_t slabs = 0, objects = 0;

        for (uint32_t i = 0; i < picture->slab_count; i++) {
            slabs += picture->slabs[i].info.node == node;
            objects += picture->slabs[i].info.node == node
                           ? picture->slabs[i].info.objects
                           : 0;
        }
        expect(f, n->whole, "node %u: its partial list leads astray (V8)", node);
        expect(f, n->nr_partial == n->partial_count,
               "node %u: nr_partial is %u, the list has %u slabs (V7)", node,
               n->nr_partial, n->partial_count);
        expect(
            f, n->slabs == slabs && n->objects == objects,
            "node %u: counters say %llu slabs and %llu objects, there are %llu and %llu (V7)",
            node, (unsigned long long)n->slabs, (unsigned long long)n->objects,
            (unsigned long long)slabs, (unsigned long long)objects);
    }
}

static bool check_cache(us_cache *s, void *arg)
{
    struct findings *f = arg;
    struct us_cache_info info;
    us_picture *picture;

    (void)snprintf(f->where, sizeof(f->where), "cache id %u", s->id);
    if (us_cache_stat(s, &info) != US_OK || us_picture_take(s, &picture) != US_OK) {
        expect(f, false, "%s", us_last_error());
        return true;
    }
    (void)snprintf(f->where, sizeof(f->where), "cache '%s'", info.name);
    check_lists(f, picture);
    for (uint32_t i = 0; i < picture->slab_count; i++) {
        (void)snprintf(f->where, sizeof(f->where), "cache '%s', slab %u", info.name,
                       picture->slabs[i].info.slab);
        check_slab(f, picture, &picture->slabs[i]);
    }
    us_picture_free(picture);
    return true;
}

/* ---- pages ---- */

static bool cache_exists(const struct us_arena *a, const struct us_page *p)
{
    uint32_t id = us_load_relaxed32(&p->cache);
    const struct us_kmem_cache *s;

    if (!us_id_valid(a, id)) {
        return false;
    }
    s = us_cache_shared(a, id);
    return us_load_relaxed32(&s->state) != US_CACHE_FREE &&
           (uint16_t)us_load_relaxed32(&s->generation) == p->cache_gen;
}

static void check_block(struct findings *f, struct us_arena *a, uint32_t page,
                        enum us_block_state state)
{
    (void)snprintf(f->where, sizeof(f->where), "page %u", page - a->first_page);
    if (state == US_BLOCK_LARGE) {
        check_owner(f, a, us_load_acquire16(us_large_tag(a, page)),
                    us_page_offset(page), US_TAG_PLANES - 1, 0);
    }
    expect(f, state != US_BLOCK_SLAB || cache_exists(a, a->pages + page),
           "a slab of cache id %u, which does not exist (V10)",
           us_load_relaxed32(&a->pages[page].cache));
    expect(f,
           state != US_BLOCK_SPLIT && state != US_BLOCK_MERGE &&
               state != US_BLOCK_ALLOC,
           "block in state %d: half done, or caught during an update (V9)", (int)state);
}

/* Is the free block at `page` the right buddy of the one before it, also free? */
static void check_merged(struct findings *f, const struct us_arena *a, uint32_t place,
                         uint32_t order, uint32_t last_free)
{
    uint32_t left = last_free - 1, up = 1u << order;
    uint64_t end = (uint64_t)place + up;

    expect(f,
           last_free == 0 || left + up != place || left % (2 * up) != 0 ||
               order + 1 >= a->at.orders || end > a->config.node_pages,
           "two free buddies of order %u are not one block (V9)", order);
}

static void check_node_pages(struct findings *f, us_arena *a, uint32_t node)
{
    uint32_t start = a->first_page + (uint32_t)(node * a->config.node_pages);
    uint32_t end = start + (uint32_t)a->config.node_pages, blocks[US_ORDERS] = {0};
    uint32_t last_free = 0, last_order = US_ORDERS; /* place + 1 of a free block */
    uint64_t free_pages = 0;
    struct us_pages_info info;

    for (uint32_t page = start; page < end;) {
        uint32_t order, up;
        enum us_block_state state = us_block_state(a, page, &order);

        (void)snprintf(f->where, sizeof(f->where), "page %u", page - a->first_page);
        up = order < a->at.orders ? 1u << order : 0;
        if (state == US_BLOCK_TAIL || up == 0 || up > end - page ||
            (page - start) % up != 0) {
            expect(f, false, "no block begins here (state %d, order %u) (V9)",
                   (int)state, order);
            return;
        }
        check_block(f, a, page, state);
        if (state == US_BLOCK_FREE) {
            blocks[order]++;
            free_pages += up;
            if (order == last_order) {
                check_merged(f, a, page - start, order, last_free);
            }
        }
        last_free = state == US_BLOCK_FREE ? page - start + 1 : 0;
        last_order = order;
        page += up;
    }
    (void)us_pages_stat(a, node, &info);
    (void)snprintf(f->where, sizeof(f->where), "node %u", node);
    expect(f, info.free_pages == free_pages,
           "the counter says %llu free pages, there are %llu "
           "(V9)",
           (unsigned long long)info.free_pages, (unsigned long long)free_pages);
    for (uint32_t order = 0; order < a->at.orders; order++) {
        expect(f, info.free[order] == blocks[order],
               "the index has %u free blocks of order %u, there are %u (V9)",
               info.free[order], order, blocks[order]);
    }
}

/* ---- caches ---- */

static void check_registry(struct findings *f, const struct us_arena *a)
{
    const struct us_header *h = a->header;
    uint32_t live = 0, listed = 0, before = 0;

    for (uint32_t id = 1; us_id_valid(a, id); id++) {
        live += us_load_relaxed32(&us_cache_shared(a, id)->state) != US_CACHE_FREE;
    }
    for (uint32_t id = us_load_relaxed32(&h->cache_head);
         us_id_valid(a, id) && listed < live; listed++) {
        const struct us_kmem_cache *s = us_cache_shared(a, id);

        expect(f, us_load_relaxed32(&s->prev) == before,
               "the list of caches does not lead back at cache id %u (V10)", id);
        before = id;
        id = us_load_relaxed32(&s->next);
    }
    expect(f,
           listed == live && us_load_relaxed32(&h->cache_tail) == before &&
               us_load_relaxed32(&h->cache_count) == live,
           "%u caches are alive, %u are listed, the counter says %u (V10)", live,
           listed, us_load_relaxed32(&h->cache_count));
    for (uint32_t entry = 1; us_name_valid(a, entry); entry++) {
        uint32_t id = us_load_relaxed32(&us_name_at(a, entry)->cache);

        expect(f,
               id == 0 ||
                   (us_id_valid(a, id) &&
                    us_load_relaxed32(&us_cache_shared(a, id)->state) != US_CACHE_FREE),
               "name %u leads to cache id %u, which does not exist (V10)", entry, id);
    }
}

uint64_t us_validate(us_arena *a, us_cache *cache, void (*report)(const char *, void *),
                     void *arg)
{
    struct findings f = {.report = report, .arg = arg};

    if (cache != NULL) {
        (void)check_cache(cache, &f);
        return f.count;
    }
    for (uint32_t node = 0; node < a->nodes; node++) {
        check_node_pages(&f, a, node);
    }
    (void)snprintf(f.where, sizeof(f.where), "arena '%s'", a->name);
    check_registry(&f, a);
    if (us_cache_each(a, check_cache, &f) != US_OK) {
        expect(&f, false, "%s", us_last_error());
    }
    (void)snprintf(f.where, sizeof(f.where), "arena '%s'", a->name);
    expect(&f, f.transits == us_places(a),
           "objects count %llu transits, channels and outboxes name %llu (V12)",
           (unsigned long long)f.transits, (unsigned long long)us_places(a));
    return f.count;
}
