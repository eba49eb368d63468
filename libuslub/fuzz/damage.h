/* SPDX-License-Identifier: MIT */
/*
 * damage.h - what an accident or a hostile peer writes into an arena.
 *
 * Half of it knows the layout: a forged value in some word of some struct, a packed
 * word with impossible parts, a list that bites its tail, a thread that died with locks
 * in hand. The rest are flipped bits and pages of garbage. All of it goes through a
 * mapping of the fuzzer's own and depends on one number, so that it can be repeated.
 */
#ifndef US_FUZZ_DAMAGE_H
#define US_FUZZ_DAMAGE_H

#include "fuzz/images.h"

struct damage {
    const struct image *image;
    char *file; /* the copy, mapped for writing */
    struct chance chance;
};

static uint32_t pick_head(struct damage *d)
{
    const struct image *image = d->image;

    return image->heads[below(&d->chance, image->head_count)];
}

static uint64_t pick_object_offset(struct damage *d)
{
    const struct image *image = d->image;

    return image->object_count == 0
               ? image->at.data
               : image->objects[below(&d->chance, image->object_count)];
}

static uint32_t pick_page(struct damage *d)
{
    return d->image->at.first_page + below(&d->chance, d->image->at.data_pages);
}

/* A number that means something, or nearly so, in place of `old`. */
static uint64_t hostile(struct damage *d, uint64_t old)
{
    static const uint64_t edges[] = {0xffff,     0x8000,     0x7fff,     0x7fffffff,
                                     0x80000000, 0xffffffff, 1ULL << 32, 1ULL << 44,
                                     1ULL << 63, 0x2000,     0x4000,     4096};
    const struct us_layout *at = &d->image->at;
    struct chance *c = &d->chance;

    switch (below(c, 22)) {
    case 0:
        return 0;
    case 1:
        return 1;
    case 2:
        return UINT64_MAX;
    case 3:
        return old + 1;
    case 4:
        return old - 1;
    case 5:
    case 6:
        return old ^ 1ULL << below(c, 64);
    case 7:
        return any(c);
    case 8:
    case 9:
        return pick_head(d);
    case 10:
        return pick_page(d);
    case 11:
        return below(c, at->first_page);
    case 12:
        return at->first_page + at->data_pages + below(c, 3);
    case 13:
    case 14:
        return pick_object_offset(d);
    case 15:
        return at->data + below(c, at->data_pages << US_PAGE_SHIFT);
    case 16:
        return below(c, at->data);
    case 17:
        return at->end - below(c, 16);
    case 18:
        return below(c, 70);
    case 19:
        return edges[below(c, sizeof(edges) / sizeof(edges[0]))];
    case 20:
        return old * 2;
    default:
        return (below(c, 5) + 1) | (one_in(c, 2) ? 0x80000000u : 0);
    }
}

static void set8(struct damage *d, uint64_t offset, uint64_t value)
{
    us_store_relaxed64((void *)(d->file + (offset & ~7ULL)), value);
}

static void set4(struct damage *d, uint64_t offset, uint32_t value)
{
    us_store_relaxed32((void *)(d->file + (offset & ~3ULL)), value);
}

static uint64_t get8(struct damage *d, uint64_t offset)
{
    return us_load_relaxed64((void *)(d->file + (offset & ~7ULL)));
}

/* One word of [start, start + bytes), of any width. */
static void forge_word(struct damage *d, uint64_t start, uint64_t bytes)
{
    uint64_t at = start + below(&d->chance, bytes);
    uint64_t value = hostile(d, get8(d, at));

    switch (below(&d->chance, 8)) {
    case 0:
        us_store_relaxed16((void *)(d->file + (at & ~1ULL)), (uint16_t)value);
        break;
    case 1:
    case 2:
    case 3:
        value = hostile(d, us_load_relaxed32((void *)(d->file + (at & ~3ULL))));
        set4(d, at, (uint32_t)value);
        break;
    default:
        set8(d, at, value);
    }
}

/* ---- where things are ---- */

static uint64_t page_at(struct damage *d, uint32_t page)
{
    return d->image->at.pages +
           (uint64_t)(page - d->image->at.first_page) * sizeof(struct us_page);
}

static uint64_t cache_at(struct damage *d)
{
    return d->image->at.caches + (uint64_t)below(&d->chance, d->image->cache_high + 1) *
                                     d->image->at.cache_stride;
}

static uint64_t cpu_at(struct damage *d)
{
    return cache_at(d) + sizeof(struct us_kmem_cache) +
           below(&d->chance, d->image->config.cpus) * sizeof(struct us_kmem_cache_cpu);
}

static uint64_t node_at_random(struct damage *d)
{
    return cache_at(d) + sizeof(struct us_kmem_cache) +
           d->image->config.cpus * sizeof(struct us_kmem_cache_cpu) +
           below(&d->chance, d->image->config.nodes) *
               sizeof(struct us_kmem_cache_node);
}

static uint64_t thread_at(struct damage *d)
{
    return d->image->at.threads +
           below(&d->chance, d->image->thread_high + 3) * sizeof(struct us_thread);
}

/* The tag of `object` in some plane: perhaps in that of its cache. */
static uint64_t tag_at(struct damage *d, uint64_t object)
{
    uint32_t plane = below(&d->chance, US_TAG_PLANES);

    return d->image->at.tags[plane] +
           ((object - d->image->at.data) / US_TAG_GRANULE(plane)) * 2;
}

static uint64_t holders_at(struct damage *d, uint64_t object)
{
    uint32_t plane = below(&d->chance, US_TAG_PLANES);

    return d->image->at.holders[plane] +
           ((object - d->image->at.data) / US_TAG_GRANULE(plane)) * 16;
}

static uint64_t lock_at(struct damage *d)
{
    switch (below(&d->chance, 5)) {
    case 0:
        return offsetof(struct us_header, cache_lock);
    case 1:
    case 2:
        return cpu_at(d) + offsetof(struct us_kmem_cache_cpu, lock);
    default:
        return node_at_random(d) + offsetof(struct us_kmem_cache_node, list_lock);
    }
}

/* ---- packed words ---- */

static void forge_block(struct damage *d)
{
    uint64_t word = page_at(d, one_in(&d->chance, 3) ? pick_page(d) : pick_head(d));
    uint64_t old = get8(d, word);
    struct us_page_word now = us_page_word_read(old);

    if (one_in(&d->chance, 2)) {
        now.state = (enum us_block_state)below(&d->chance, 10);
    }
    if (one_in(&d->chance, 2)) {
        now.order = below(&d->chance, one_in(&d->chance, 4) ? 64 : 10);
    }
    if (one_in(&d->chance, 2)) {
        now.owner = (uint32_t)hostile(d, now.owner) & 0xffff;
    }
    set8(d, word, us_page_word_next(old, now.state, now.order, now.owner));
}

static void forge_slab(struct damage *d)
{
    uint64_t at = page_at(d, pick_head(d)) + offsetof(struct us_page, slab);
    uint64_t lo = get8(d, at), hi = get8(d, at + 8);
    uint32_t which = below(&d->chance, 16);

    if (which & 1) {
        lo = (lo & ~US_OFFSET_MASK) | (hostile(d, lo) & US_OFFSET_MASK);
    }
    if (which & 2) {
        hi = (hi & ~0xffffULL) | (hostile(d, hi) & 0xffff);
    }
    if (which & 4) {
        hi = (hi & ~(0x7fffULL << 16)) | (hostile(d, hi >> 16) & 0x7fff) << 16;
    }
    if (which & 8) {
        hi ^= 1ULL << 31;
    }
    if (one_in(&d->chance, 4)) {
        lo ^= 1ULL << (44 + below(&d->chance, 4)); /* a mark of recovery */
    }
    set8(d, at, lo);
    set8(d, at + 8, hi);
}

static void forge_cpu(struct damage *d)
{
    uint64_t at = cpu_at(d);
    uint32_t page = (uint32_t)hostile(d, pick_head(d));

    switch (below(&d->chance, 4)) {
    case 0:
        set8(d, at, hostile(d, get8(d, at)));
        break;
    case 1: /* another event, generation or CPU in the tid */
        set8(d, at + 8, get8(d, at + 8) ^ 1ULL << below(&d->chance, 40));
        break;
    case 2:
        set8(d, at + offsetof(struct us_kmem_cache_cpu, active),
             us_page_offset(page) | below(&d->chance, 4) |
                 (hostile(d, 32) & 0xffff) << 48);
        break;
    default:
        set4(d, at + offsetof(struct us_kmem_cache_cpu, partial), page);
    }
}

static void forge_owner(struct damage *d)
{
    static const uint16_t tags[] = {
        0, 1, 2, 3, 4, 64, 65, 0x2000, 0x2001, 0x4001, 0x8001, 0xa000, 0xffff, 0x1fff};
    uint64_t object = pick_object_offset(d), pair = holders_at(d, object);

    us_store_relaxed16((void *)(d->file + tag_at(d, object)),
                       tags[below(&d->chance, sizeof(tags) / sizeof(tags[0]))]);
    if (one_in(&d->chance, 2)) {
        set8(d, pair, hostile(d, 1));
        set8(d, pair + 8, any(&d->chance) >> below(&d->chance, 64));
    }
}

/* A link of a list, a chain or a table leads to another of its kind, or to itself. */
static void forge_link(struct damage *d)
{
    static const uint32_t links[] = {
        offsetof(struct us_page, next), offsetof(struct us_page, prev),
        offsetof(struct us_page, chain_next), offsetof(struct us_page, chain_count)};
    uint32_t page = pick_head(d), to = one_in(&d->chance, 3) ? page : pick_head(d);
    uint64_t name = d->image->at.names +
                    below(&d->chance, d->image->name_high + 1) * sizeof(struct us_name);

    switch (below(&d->chance, 5)) {
    case 0:
        set4(d, name + offsetof(struct us_name, hash_next),
             below(&d->chance, d->image->name_high + 2));
        break;
    case 1:
        set4(d, cache_at(d) + offsetof(struct us_kmem_cache, next),
             below(&d->chance, d->image->cache_high + 2));
        break;
    case 2: { /* between free objects: plain links are the first words */
        uint64_t object = pick_object_offset(d);

        set8(d, object + below(&d->chance, 8) * 8,
             one_in(&d->chance, 3) ? object : pick_object_offset(d));
        break;
    }
    default:
        set4(d, page_at(d, page) + links[below(&d->chance, 4)], to);
    }
}

/* ---- stories ---- */

/* A thread ended in the middle of something; locks and blocks name it. */
static void forge_thread(struct damage *d)
{
    struct chance *c = &d->chance;
    uint32_t slot = below(c, one_in(c, 8) ? US_THREADS : d->image->thread_high + 3);
    uint64_t at = d->image->at.threads;
    struct us_thread *t = (struct us_thread *)(void *)(d->file + at) + slot;

    if (slot >= 30) {
        slot = 30 + slot % 10; /* one page of slots is there */
        t = (struct us_thread *)(void *)(d->file + at) + slot;
    }
    us_store_relaxed32(&t->state, one_in(c, 4)
                                      ? (uint32_t)hostile(d, 1)
                                      : below(c, PARTICIPANTS + 1) |
                                            (one_in(c, 4) ? US_THREAD_DEAD : 0));
    us_store_relaxed64(&t->intent, (uint64_t)below(c, 20) << US_OP_SHIFT |
                                       (one_in(c, 3) ? hostile(d, 0) & US_OFFSET_MASK
                                                     : pick_object_offset(d)));
    us_store_relaxed32(&t->cache, below(c, d->image->cache_high + 2));
    us_store_relaxed32(&t->cpu, (uint32_t)hostile(d, 0));
    us_store_relaxed32(&t->locks, below(c, 4));
    us_store_relaxed32(&t->changing, below(c, 2));
    for (uint32_t locks = below(c, 4); locks != 0; locks--) {
        set4(d, lock_at(d),
             (slot + 1) | (one_in(c, 2) ? 0x80000000u : 0) |
                 (one_in(c, 4) ? 0x40000000u : 0));
    }
    if (one_in(c, 2)) {
        uint64_t word = page_at(d, pick_head(d));

        set8(d, word,
             us_page_word_next(get8(d, word), (enum us_block_state)(2 + below(c, 3)),
                               us_page_word_read(get8(d, word)).order, slot + 1));
    }
    us_store_relaxed32((void *)(d->file + offsetof(struct us_header, thread_high)),
                       one_in(c, 8)                    ? (uint32_t)hostile(d, slot)
                       : slot >= d->image->thread_high ? slot + 1
                                                       : d->image->thread_high);
}

static void forge_doubt(struct damage *d)
{
    switch (below(&d->chance, 4)) {
    case 0:
        set4(d, offsetof(struct us_header, pages_suspect), 1);
        break;
    case 1: /* seldom: nothing more happens in a poisoned arena */
        set4(d, offsetof(struct us_header, poisoned), one_in(&d->chance, 8));
        break;
    case 2:
        set4(d, node_at_random(d) + offsetof(struct us_kmem_cache_node, strays), 1);
        break;
    default:
        set4(d, cache_at(d) + offsetof(struct us_kmem_cache, suspect), 1);
    }
}

static void forge_struct(struct damage *d)
{
    const struct us_layout *at = &d->image->at;
    struct chance *c = &d->chance;
    uint32_t plane = below(c, US_TAG_PLANES);

    switch (below(c, 16)) {
    case 0:
        forge_word(d, offsetof(struct us_header, cache_lock),
                   sizeof(struct us_header) - offsetof(struct us_header, cache_lock));
        break;
    case 1:
        forge_word(d, at->processes, 5 * sizeof(struct us_process));
        break;
    case 2:
        forge_word(d, thread_at(d), sizeof(struct us_thread));
        break;
    case 3:
        forge_word(d, at->node_pages,
                   d->image->config.nodes * sizeof(struct us_node_pages));
        break;
    case 4:
        forge_word(
            d, at->bitmap[below(c, d->image->config.nodes)][below(c, at->orders)], 16);
        break;
    case 5:
        forge_word(d, at->commit_map, (at->end >> US_PAGE_SHIFT) / 8);
        break;
    case 6:
        forge_word(d, at->buckets, (at->bucket_mask + 1ULL) * 4);
        break;
    case 7:
        forge_word(d, at->names, (d->image->name_high + 1ULL) * sizeof(struct us_name));
        break;
    case 8:
        forge_word(d, cache_at(d), sizeof(struct us_kmem_cache));
        break;
    case 9:
        forge_word(d, cpu_at(d), 32);
        break;
    case 10:
        forge_word(d, node_at_random(d), sizeof(struct us_kmem_cache_node));
        break;
    case 11:
        forge_word(d, page_at(d, pick_head(d)), sizeof(struct us_page));
        break;
    case 12:
        forge_word(d, at->outboxes + below(c, PARTICIPANTS) * US_OUTBOX * 16ULL, 256);
        break;
    case 13:
        forge_word(d, at->channels, 64);
        break;
    case 14:
        forge_word(d, at->tags[plane], at->data_pages * US_TAG_STRIDE(plane));
        break;
    default:
        forge_word(d, at->holders[plane], at->data_pages * US_HOLDERS_STRIDE(plane));
    }
}

static void forge_channel(struct damage *d)
{
    bool fake = one_in(&d->chance, 4);
    uint64_t at =
        fake ? pick_object_offset(d) : d->image->channels[below(&d->chance, CHANNELS)];

    if (at == 0) {
        return;
    }
    if (fake && d->image->off_pair != 0 && one_in(&d->chance, 2)) {
        at = d->image->off_pair;
    }
    if (fake) {
        set8(d, at, US_CHANNEL_MAGIC);
        set8(d, at + 8, 1 + below(&d->chance, 3));
        set8(d, d->image->at.channels + below(&d->chance, 6) * 8, at);
        return;
    }
    if (one_in(&d->chance, 2)) {
        forge_word(d, at, 192);
    } else {
        forge_word(d, at + sizeof(struct us_channel_block), 96);
    }
    if (one_in(&d->chance, 4)) {
        forge_word(d, at + 192, sizeof(struct us_format) * 2);
    }
}

/* Images and shuffle tables of caches are blocks like any other. */
static void forge_page(struct damage *d)
{
    uint32_t page = d->image->pages[1 + below(&d->chance, d->image->page_count - 1)];
    char *bytes = d->file + us_page_offset(page);
    const char *other =
        d->image->bytes +
        us_page_offset(d->image->pages[below(&d->chance, d->image->page_count)]);

    switch (below(&d->chance, 4)) {
    case 0:
        memset(bytes, 0, US_PAGE_SIZE);
        break;
    case 1:
        memset(bytes, 0xff, US_PAGE_SIZE);
        break;
    case 2:
        memcpy(bytes, other, US_PAGE_SIZE);
        break;
    default:
        for (uint32_t i = 0; i < US_PAGE_SIZE; i += 8) {
            us_store_relaxed64((void *)(bytes + i), any(&d->chance));
        }
    }
}

static void flip_bit(struct damage *d)
{
    for (int tries = 0; tries < 200; tries++) {
        uint32_t page = d->image->pages[below(&d->chance, d->image->page_count)];
        uint64_t at = us_page_offset(page) + below(&d->chance, US_PAGE_SIZE);

        if (at >= offsetof(struct us_header, poisoned) &&
            (d->file[at] != 0 || tries > 100)) {
            d->file[at] = (char)(d->file[at] ^ 1 << below(&d->chance, 8));
            return;
        }
    }
}

/* One thing more is wrong. */
static void damage_once(struct damage *d)
{
    switch (below(&d->chance, 16)) {
    case 0:
    case 1:
        flip_bit(d);
        break;
    case 2:
    case 3:
        forge_block(d);
        break;
    case 4:
    case 5:
        forge_slab(d);
        break;
    case 6:
        forge_cpu(d);
        break;
    case 7:
        forge_owner(d);
        break;
    case 8:
    case 9:
        forge_link(d);
        break;
    case 10:
        forge_thread(d);
        break;
    case 11:
        forge_channel(d);
        break;
    case 12:
        forge_doubt(d);
        break;
    default:
        forge_struct(d);
    }
}

/* Before anybody attaches: one, a few or many. */
static void damage_image(struct damage *d)
{
    static const uint32_t counts[] = {1, 1, 1, 2, 3, 5, 12, 40};
    uint32_t n = counts[below(&d->chance, sizeof(counts) / sizeof(counts[0]))];

    while (n-- != 0) {
        damage_once(d);
    }
    if (one_in(&d->chance, 20)) {
        forge_page(d);
    }
}

/* Another config, and a header that swears by it. *size: what the file should have. */
static void forge_header(struct damage *d, uint64_t *size)
{
    struct us_header *h = (void *)d->file;
    struct us_layout at;
    uint32_t words = 1 + below(&d->chance, 2);

    while (words-- != 0) {
        uint32_t word = below(&d->chance, offsetof(struct us_config, cpu_node) / 4 + 8);
        uint32_t *field = (uint32_t *)(void *)&h->config + word;

        *field = one_in(&d->chance, 2) ? below(&d->chance, 600)
                                       : (uint32_t)hostile(d, *field);
    }
    if (one_in(&d->chance, 8)) {
        forge_word(d, 0, offsetof(struct us_header, checksum));
    }
    h->checksum = us_header_checksum(h);
    *size = d->image->size;
    /* A larger arena takes longer to look at; that is no news. */
    if (us_layout_compute(&h->config, &at) && at.data_pages <= 1 << 18) {
        *size = at.end;
    }
}

#endif
