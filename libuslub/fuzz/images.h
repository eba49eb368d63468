/* SPDX-License-Identifier: MIT */
/*
 * images.h - the good arenas that the fuzzer damages: their bytes, and what is in them.
 *
 * An image is the content of an anonymous arena, taken while its objects are in use.
 * Some of them are given to two more participants, so that there are objects of ours,
 * of the living and of the dead; who is alive is decided per copy, by locks on the
 * copy's bytes.
 */
#ifndef US_FUZZ_IMAGES_H
#define US_FUZZ_IMAGES_H

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache/names.h"
#include "share/share.h"

/* ---- chance ---- */

struct chance {
    uint64_t state;
};

static uint64_t any(struct chance *c) /* splitmix64 */
{
    uint64_t x = c->state += 0x9e3779b97f4a7c15ULL;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
    return x ^ x >> 31;
}

static uint32_t below(struct chance *c, uint64_t n)
{
    return (uint32_t)(any(c) % n);
}

static bool one_in(struct chance *c, uint32_t n)
{
    return below(c, n) == 0;
}

/* ---- images ---- */

#define PARTICIPANTS 3 /* 0 made the arena, 1 and 2 were given some objects */
#define TICKETS      8
#define CHANNELS     3
#define OBJECTS      2048

struct image {
    char *bytes; /* a private copy of the file */
    uint64_t size;
    uint32_t pages[4096]; /* numbers of those that hold something */
    uint32_t page_count;
    uint8_t *holds; /* one per page of the file: is it one of those? */
    struct us_config config;
    struct us_layout at;
    struct us_ticket tickets[TICKETS];
    uint32_t ticket_count;
    uint64_t channels[CHANNELS];
    uint64_t off_pair; /* an object as large as a channel, not on 16 bytes; 0: none */
    uint64_t objects[OBJECTS]; /* offsets of objects, in use or free */
    uint32_t object_count;
    uint32_t heads[4096]; /* first pages of blocks */
    uint32_t head_count;
    uint32_t cache_high, name_high, thread_high;
};

static const struct us_arena_config image_shapes[] = {
    {.size = 1 << 20, .cpus = 2, .nodes = 1, .keep = UINT64_MAX},
    {.size = 1 << 20, .cpus = 4, .nodes = 2, .keep = 0, .reserve = 65536},
    {.size = 600000, .cpus = 2, .nodes = 1, .keep = UINT64_MAX},
    {.size = 300000, .cpus = 1, .nodes = 1, .keep = 65536},
};
#define IMAGES (sizeof(image_shapes) / sizeof(image_shapes[0]))

static const struct {
    const char *name;
    uint32_t size, flags, ctor;
} cache_shapes[] = {
    {"small", 64, 0, 0},
    {"big", 5000, 0, 0},
    {"odd", 100, US_FREELIST_RANDOM, 0},
    {"hard", 192, US_FREELIST_RANDOM | US_FREELIST_HARDENED, 0},
    {"formed", 48, 0, 1},
    {"listed", 256, US_NO_CPU_PARTIAL, 0},
    {"wide", 9000, 0, 0}, /* larger than a channel, every second object off 16 bytes */
    {"first", 72, US_MERGE, 0},
    {"second", 72, US_MERGE, 0},
};
#define CACHES (sizeof(cache_shapes) / sizeof(cache_shapes[0]))

static struct us_cache_config cache_config(uint32_t i)
{
    static const char content[64] = "initial content of an object of the formed cache";
    struct us_cache_config config = US_CACHE_CONFIG_INIT;

    config.object_size = cache_shapes[i].size;
    config.flags = cache_shapes[i].flags;
    config.image = cache_shapes[i].ctor ? content : NULL;
    return config;
}

static void remember(struct image *image, struct us_arena *a, const void *object)
{
    if (object != NULL && image->object_count < OBJECTS) {
        image->objects[image->object_count++] = us_offset(a, object);
    }
}

/* Objects of every cache, a third of them free again: CPU slabs, chains, lists, full
 * slabs. */
static void fill_caches(struct image *image, us_arena *a, struct chance *c,
                        uint32_t caches, uint32_t most)
{
    for (uint32_t i = 0; i < caches; i++) {
        struct us_cache_config config = cache_config(i);
        uint32_t n = most / (cache_shapes[i].size / 1000 + 1);
        void *objects[400];
        us_cache *cache;

        if (us_cache_create(a, cache_shapes[i].name, &config, &cache) != US_OK) {
            return;
        }
        for (uint32_t j = 0; j < n; j++) {
            objects[j] = us_alloc_on(cache, 0, (int)below(c, a->cpus), -1);
            remember(image, a, objects[j]);
            if (objects[j] != NULL && cache_shapes[i].size >= 9000 &&
                us_offset(a, objects[j]) % sizeof(struct us_pair) != 0) {
                image->off_pair = us_offset(a, objects[j]);
            }
        }
        for (uint32_t j = 0; j < n; j++) {
            if (objects[j] != NULL && one_in(c, 3)) {
                (void)us_free_on(cache, objects[j], (int)below(c, a->cpus));
            }
        }
        if (i % 4 == 2) {
            (void)us_cache_flush(cache, -1);
        }
    }
}

/* What is shared, sent, on its way, or large. */
static void fill_rest(struct image *image, us_arena *a, struct chance *c)
{
    static const uint32_t sizes[] = {10, 100, 1000, 8000, 9000, 30000};
    us_channel *channels[CHANNELS];
    struct us_message message = {0};
    uint32_t format;

    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        remember(image, a, us_kmalloc(a, sizes[i], 0, 0, -1));
    }
    for (uint32_t i = 0; i < CHANNELS; i++) {
        if (us_channel_create(a, 1 + i * 2, &channels[i]) != US_OK) {
            return;
        }
        remember(image, a, us_channel_object(channels[i]));
        image->channels[i] = us_offset(a, us_channel_object(channels[i]));
        (void)us_channel_format(channels[i], "i4(3,)", 6, &format);
    }
    for (uint32_t i = 0; i < 40 && image->ticket_count < TICKETS - 1; i++) {
        void *object = us_at(a, image->objects[below(c, image->object_count)]);

        if (us_send(a, object, &image->tickets[image->ticket_count]) != US_OK) {
            continue;
        }
        image->ticket_count++;
        message.object = object;
        (void)us_channel_send(channels[i % CHANNELS], &message, 0);
    }
    message.object = us_channel_object(channels[0]);
    (void)us_channel_send(channels[2], &message, 0);
    if (us_send(a, us_channel_object(channels[1]),
                &image->tickets[image->ticket_count]) == US_OK) {
        image->ticket_count++;
    }
    for (uint32_t i = 0; i < CHANNELS; i++) {
        free(channels[i]); /* the handle; the channel stays */
    }
}

/* The bytes of the file, and which of its pages hold any. */
static void copy_file(struct image *image, int fd)
{
    const char *file = mmap(NULL, image->size, PROT_READ, MAP_SHARED, fd, 0);
    off_t at = 0;

    image->bytes = mmap(NULL, image->size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    image->holds = calloc(image->size >> US_PAGE_SHIFT, 1);
    assert(file != MAP_FAILED && image->bytes != MAP_FAILED && image->holds != NULL);
    while ((at = lseek(fd, at, SEEK_DATA)) >= 0) {
        off_t hole = lseek(fd, at, SEEK_HOLE);

        for (; at < hole; at += US_PAGE_SIZE) {
            uint32_t page = (uint32_t)(at >> US_PAGE_SHIFT);

            assert(image->page_count < sizeof(image->pages) / sizeof(uint32_t));
            image->pages[image->page_count++] = page;
            image->holds[page] = 1;
            memcpy(image->bytes + at, file + at, US_PAGE_SIZE);
        }
    }
    (void)munmap((void *)(uintptr_t)file, image->size);
}

/* Two more participants, who own a part of what there is; all of it stays valid. */
static void give_away(struct image *image, const struct us_arena *a, struct chance *c)
{
    struct us_process *p = (void *)(image->bytes + image->at.processes);
    struct us_thread *t = (void *)(image->bytes + image->at.threads);

    for (uint32_t i = 0; i < image->object_count; i++) {
        struct us_object_info info;
        uint16_t *tag;

        if (us_object_stat((us_arena *)(uintptr_t)a, us_at(a, image->objects[i]),
                           &info) != US_OK ||
            info.owner != 1 || info.shared) {
            continue;
        }
        tag = info.large ? us_large_tag(a, info.page + a->first_page)
                         : us_tag(info.cache, info.offset);
        *(uint16_t *)(void *)(image->bytes + us_offset((us_arena *)(uintptr_t)a, tag)) =
            (uint16_t)(1 + below(c, PARTICIPANTS));
    }
    for (uint32_t slot = 1; slot < PARTICIPANTS; slot++) {
        p[slot] = p[0];
        t[slot] = t[0];
        t[slot].state = slot + 1;
    }
    ((struct us_header *)(void *)image->bytes)->thread_high = PARTICIPANTS;
}

static void list_blocks(struct image *image)
{
    const struct us_page *pages = (const void *)(image->bytes + image->at.pages);

    for (uint32_t i = 0; i < image->at.data_pages; i++) {
        if (pages[i].word != 0 && image->head_count < 4096) {
            image->heads[image->head_count++] = image->at.first_page + i;
        }
    }
}

static void complain(const char *finding, void *arg)
{
    (void)arg;
    (void)dprintf(2, "damage: %s\n", finding);
}

static void image_make(struct image *image, uint32_t kind)
{
    struct chance c = {kind};
    const struct us_header *h;
    us_arena *a = NULL;
    us_err err = us_arena_create(NULL, &image_shapes[kind], &a);

    assert(err == US_OK);
    image->config = a->config;
    image->at = a->at;
    image->size = a->at.end;
    fill_caches(image, a, &c, kind == 3 ? 2 : CACHES, kind == 2 ? 400 : 60);
    fill_rest(image, a, &c);
    assert(us_validate(a, NULL, complain, NULL) == 0);
    copy_file(image, us_arena_fd(a));
    give_away(image, a, &c);
    list_blocks(image);
    h = (const void *)image->bytes;
    image->cache_high = h->cache_high;
    image->name_high = h->name_high;
    image->thread_high = h->thread_high;
    us_arena_detach(a);
}

#endif
