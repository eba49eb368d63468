/* SPDX-License-Identifier: MIT */
/*
 * calls.h - what is done to a damaged arena: every call of uslub.h, in an order and
 * with arguments that follow from the number of the image.
 *
 * What a call returns is of no interest, as long as it returns, and as long as an
 * address that it returns is one of the arena's: whoever allocates writes there.
 */
#ifndef US_FUZZ_CALLS_H
#define US_FUZZ_CALLS_H

#include <stdio.h>
#include <time.h>

#include "fuzz/damage.h"

/* In memory that the parent shares: where a child is. */
struct progress {
    uint64_t image, calls, attached;
    const char *call;
    uint64_t began_ns, slowest_ns, slowest_image;
    const char *slowest_call;
    uint64_t codes[32]; /* how often which us_err was the answer */
};

#define MINE 64

struct user {
    us_arena *a;
    struct progress *at;
    struct chance chance;
    struct damage *peer; /* writes before every call; NULL: nobody does */
    const struct image *image;
    us_cache *caches[24];
    uint32_t cache_count;
    void *mine[MINE];
    uint32_t mine_count;
    us_channel *channels[4];
    uint32_t channel_count;
    bool wrong;
};

int __real_clock_gettime(clockid_t clock, struct timespec *ret);

static uint64_t now_ns(void)
{
    struct timespec t;

    (void)__real_clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void note(struct progress *at, const char *call)
{
    uint64_t now = now_ns();

    if (at->call != NULL && now - at->began_ns > at->slowest_ns) {
        at->slowest_ns = now - at->began_ns;
        at->slowest_image = at->image;
        at->slowest_call = at->call;
    }
    at->began_ns = now;
    at->call = call;
    us_store_release64(&at->calls, at->calls + 1);
}

static void begin(struct user *u, const char *call)
{
    if (u->peer != NULL) {
        for (uint32_t n = below(&u->peer->chance, 3); n != 0; n--) {
            damage_once(u->peer);
        }
    }
    note(u->at, call);
}

static us_err answer(struct user *u, us_err err)
{
    u->at->codes[(unsigned)err % 32]++;
    return err;
}

#define TRY(u, call)  (begin(u, #call), answer(u, call))
#define CALL(u, call) (begin(u, #call), (call))

/* ---- arguments ---- */

static int pick_cpu(struct user *u)
{
    return one_in(&u->chance, 8) ? -1 : (int)below(&u->chance, u->a->cpus);
}

static int pick_node(struct user *u)
{
    return one_in(&u->chance, 3) ? (int)below(&u->chance, u->a->nodes) : -1;
}

static uint32_t pick_gfp(struct user *u)
{
    return one_in(&u->chance, 2) ? 0 : below(&u->chance, 64);
}

static us_cache *pick_cache(struct user *u)
{
    return u->caches[below(&u->chance, u->cache_count)];
}

/* An address: of ours, of the image, or none at all. */
static void *pick_pointer(struct user *u)
{
    char *base = us_arena_base(u->a);
    uint32_t way = below(&u->chance, 16);

    if (way < 6 && u->mine_count != 0) {
        return u->mine[below(&u->chance, u->mine_count)];
    }
    if (way < 14 && u->image->object_count != 0) {
        return base + u->image->objects[below(&u->chance, u->image->object_count)];
    }
    if (way == 14) {
        return base + below(&u->chance, u->a->at.end + 8192) - 4096;
    }
    return base + u->a->data_start + below(&u->chance, u->a->data_bytes);
}

/* The object is the caller's to write into. */
static void use(struct user *u, void *object, uint64_t bytes, const char *from)
{
    uint64_t offset = us_offset(u->a, object) - u->a->data_start;

    if (offset >= u->a->data_bytes || bytes > u->a->data_bytes - offset) {
        (void)dprintf(2, "damage: %s gave 0x%llx with %llu bytes: not in the arena\n",
                      from, (unsigned long long)us_offset(u->a, object),
                      (unsigned long long)bytes);
        u->wrong = true;
        return;
    }
    memset(object, (int)below(&u->chance, 256), bytes);
}

static void keep(struct user *u, void *object, uint64_t bytes, const char *from)
{
    if (object == NULL) {
        (void)answer(u, us_last_code());
        return;
    }
    (void)answer(u, US_OK);
    use(u, object, bytes, from);
    if (u->mine_count < MINE) {
        u->mine[u->mine_count++] = object;
    }
}

/* One of ours, taken out of the list. */
static void *take_mine(struct user *u)
{
    uint32_t i;
    void *object;

    if (u->mine_count == 0) {
        return pick_pointer(u);
    }
    i = below(&u->chance, u->mine_count);
    object = u->mine[i];
    u->mine[i] = u->mine[--u->mine_count];
    return object;
}

static bool collect(us_cache *s, void *arg)
{
    struct user *u = arg;

    if (u->cache_count < sizeof(u->caches) / sizeof(u->caches[0])) {
        u->caches[u->cache_count++] = s;
    }
    return true;
}

static bool ignore_name(const char *name, void *arg)
{
    (void)name, (void)arg;
    return true;
}

/* Findings are what damage should lead to. */
static void ignore(const char *finding, void *arg)
{
    (void)finding, (void)arg;
}

/* ---- groups of calls ---- */

static void objects(struct user *u)
{
    us_cache *s = pick_cache(u);
    void *many[40];
    uint32_t n = 1 + below(&u->chance, 40);

    switch (below(&u->chance, 8)) {
    case 0:
        keep(u, CALL(u, us_alloc(s)), s->object_size, "us_alloc()");
        break;
    case 1:
    case 2:
        keep(u, CALL(u, us_alloc_on(s, pick_gfp(u), pick_cpu(u), pick_node(u))),
             s->object_size, "us_alloc_on()");
        break;
    case 3:
        (void)TRY(u,
                  us_free(s, one_in(&u->chance, 2) ? take_mine(u) : pick_pointer(u)));
        break;
    case 4:
        (void)TRY(u, us_free_on(s, pick_pointer(u), pick_cpu(u)));
        break;
    case 5:
        if (TRY(u, us_alloc_bulk(s, pick_gfp(u), pick_cpu(u), pick_node(u), n, many)) ==
            US_OK) {
            for (uint32_t i = 0; i < n; i++) {
                use(u, many[i], s->object_size, "us_alloc_bulk()");
            }
            (void)TRY(u, us_free_bulk(s, n, many, pick_cpu(u)));
        }
        break;
    case 6:
        for (uint32_t i = 0; i < n; i++) {
            many[i] = pick_pointer(u);
        }
        (void)TRY(u, us_free_bulk(s, 1 + n / 8, many, pick_cpu(u)));
        break;
    default:
        (void)TRY(u, us_kfree(u->a, take_mine(u), pick_cpu(u)));
    }
}

static void sizes(struct user *u)
{
    uint64_t n = 1 + below(&u->chance, one_in(&u->chance, 2) ? 9000 : 70000);
    uint64_t usable;
    void *object, *moved;

    switch (below(&u->chance, 5)) {
    case 0:
    case 1:
        keep(u, CALL(u, us_kmalloc(u->a, n, pick_gfp(u), pick_cpu(u), pick_node(u))), n,
             "us_kmalloc()");
        break;
    case 2:
        (void)TRY(u, us_kfree(u->a, pick_pointer(u), pick_cpu(u)));
        break;
    case 3:
        object = take_mine(u);
        moved = CALL(u, us_krealloc(u->a, object, n, pick_gfp(u), pick_cpu(u)));
        if (moved != NULL) {
            keep(u, moved, n, "us_krealloc()");
        }
        break;
    default:
        object = pick_pointer(u);
        usable = CALL(u, us_ksize(u->a, object));
        if (usable != 0 && u->peer == NULL) {
            use(u, object, usable, "us_ksize()");
        }
    }
}

static void sharing(struct user *u)
{
    struct us_ticket ticket = {0};
    uint32_t i = below(&u->chance, TICKETS);
    void *object;

    switch (below(&u->chance, 5)) {
    case 0:
        if (TRY(u, us_send(u->a, pick_pointer(u), &ticket)) == US_OK &&
            TRY(u, us_receive(u->a, &ticket, &object)) == US_OK) {
            keep(u, object, 1, "us_receive()");
        }
        break;
    case 1:
    case 2:
        ticket = u->image->tickets[i];
        if (one_in(&u->chance, 4)) {
            ticket.offset = us_offset(u->a, pick_pointer(u));
        }
        if (one_in(&u->chance, 4)) {
            ticket.record = (uint32_t)any(&u->chance);
        }
        if (TRY(u, us_receive(u->a, &ticket, &object)) == US_OK) {
            keep(u, object, 1, "us_receive()");
        }
        break;
    case 3:
        (void)TRY(u, us_move(u->a, pick_pointer(u)));
        break;
    default:
        (void)TRY(u, us_adopt(u->a, us_offset(u->a, pick_pointer(u)),
                              (uint16_t)below(&u->chance, 70)));
    }
}

static void open_channel(struct user *u)
{
    uint64_t offset = one_in(&u->chance, 4)
                          ? u->image->off_pair
                          : u->image->channels[below(&u->chance, CHANNELS)];
    us_channel *ch;
    us_err err;

    if (one_in(&u->chance, 3)) {
        err = TRY(u, us_channel_create(u->a, 1 + below(&u->chance, 40), &ch));
    } else {
        err = TRY(u, us_channel_open(u->a,
                                     one_in(&u->chance, 3) ? pick_pointer(u)
                                                           : us_pointer(u->a, offset),
                                     &ch));
    }
    if (err == US_OK) {
        u->channels[u->channel_count++] = ch;
    }
}

static void channels(struct user *u)
{
    struct us_message m = {0};
    uint32_t number;
    us_channel *ch;
    char text[120];

    if (u->channel_count == 0 || (u->channel_count < 4 && one_in(&u->chance, 5))) {
        open_channel(u);
        return;
    }
    ch = u->channels[below(&u->chance, u->channel_count)];
    switch (below(&u->chance, 9)) {
    case 0:
    case 1:
        m.object = pick_pointer(u);
        m.nbytes = below(&u->chance, 1 << 25);
        m.format = below(&u->chance, 3);
        (void)TRY(u, us_channel_send(ch, &m, below(&u->chance, 2) * 1000));
        break;
    case 2:
    case 3:
    case 4:
        if (TRY(u, us_channel_receive(ch, &m, below(&u->chance, 2) * 1000)) == US_OK) {
            keep(u, m.object, u->peer == NULL ? m.nbytes : 1, "us_channel_receive()");
        }
        break;
    case 5:
        (void)TRY(u, us_channel_wait(ch, below(&u->chance, 2) * 1000));
        (void)CALL(u, us_channel_length(ch));
        (void)us_channel_capacity(ch);
        break;
    case 6:
        (void)TRY(u,
                  us_channel_format(ch, "i4(5,)", 1 + below(&u->chance, 6), &number));
        number = CALL(u, us_channel_format_text(ch, below(&u->chance, 66), text));
        assert(number <= sizeof(text));
        break;
    case 7:
        begin(u, "us_channel_close()");
        us_channel_close(ch);
        break;
    default:
        for (uint32_t i = 0; i < u->channel_count; i++) {
            if (u->channels[i] == ch) {
                u->channels[i] = u->channels[--u->channel_count];
            }
        }
        (void)TRY(u, us_channel_release(ch));
    }
}

static void caches(struct user *u)
{
    us_cache *s = pick_cache(u), *other;
    uint32_t i = below(&u->chance, CACHES);
    struct us_cache_config config = cache_config(i);
    char name[US_NAME_MAX + 1];

    switch (below(&u->chance, 12)) {
    case 0:
        (void)TRY(u, us_cache_flush(s, pick_cpu(u)));
        break;
    case 1:
        (void)TRY(u, us_cache_flush_slab(s, pick_cpu(u)));
        break;
    case 2:
        (void)TRY(u, us_cache_flush_chain(s, -1));
        break;
    case 3:
        (void)TRY(u, us_cache_shrink(s));
        break;
    case 4:
        (void)TRY(u, us_cache_shrink_nodes(s));
        break;
    case 5:
        (void)snprintf(name, sizeof(name), "new-%u", below(&u->chance, 3));
        if (TRY(u, us_cache_create(u->a,
                                   one_in(&u->chance, 2) ? name : cache_shapes[i].name,
                                   &config, &other)) == US_OK) {
            (void)collect(other, u);
        }
        break;
    case 6:
        if (TRY(u, us_cache_find(u->a, cache_shapes[i].name, &other)) == US_OK) {
            (void)collect(other, u);
        }
        break;
    case 7:
        (void)TRY(u, us_cache_destroy(u->a, cache_shapes[i].name));
        break;
    case 8:
        (void)TRY(u, us_cache_set_cpu_partial(s, below(&u->chance, 60)));
        break;
    case 9:
        (void)TRY(u, us_cache_set_min_partial(s, below(&u->chance, 6)));
        break;
    case 10:
        (void)TRY(u, us_cpu_dead(u->a, (int)below(&u->chance, u->a->cpus)));
        break;
    default:
        (void)TRY(u, us_cache_aliases(s, ignore_name, NULL));
        (void)CALL(u, us_cache_brief(s, name));
    }
}

static void look_at_cache(struct user *u, us_cache *s)
{
    struct us_cache_info info;
    us_picture *picture;

    (void)TRY(u, us_cache_stat(s, &info));
    (void)CALL(u, us_cache_counter(s, US_STAT_ALLOC_FASTPATH, 0));
    if (TRY(u, us_picture_take(s, &picture)) == US_OK) {
        const uint32_t *slabs;
        const uint16_t *list;
        uint32_t count, chain;
        uint64_t n, m, sum = 0;
        struct us_slab_info slab;

        for (uint32_t i = 0; us_picture_slab(picture, i, &slab); i++) {
            for (uint32_t j = 0; j < slab.free_count; j++) {
                sum += slab.free_index[j];
            }
        }
        for (uint32_t cpu = 0; cpu < u->a->cpus; cpu++) {
            (void)us_picture_cpu(picture, cpu, &list, &count, &slabs, &chain);
            for (uint32_t i = 0; i < count; i++) {
                sum += list[i];
            }
        }
        for (uint32_t node = 0; node < u->a->nodes; node++) {
            us_picture_node(picture, node, &slabs, &count, &n, &m);
            sum += count == 0 ? 0 : slabs[count - 1];
        }
        u->chance.state += sum == 1; /* it was read */
        us_picture_free(picture);
    }
}

static void looks(struct user *u)
{
    struct us_process_info people[US_PROCESSES];
    struct us_thread_info threads[64];
    struct us_arena_info arena;
    struct us_object_info object;
    struct us_pages_info pages;
    struct us_health health;

    switch (below(&u->chance, 6)) {
    case 0:
        (void)TRY(u, us_arena_stat(u->a, &arena));
        (void)CALL(u, us_arena_processes(u->a, people, US_PROCESSES));
        break;
    case 1:
        (void)CALL(u, us_arena_threads(u->a, threads, 64));
        (void)TRY(u, us_health(u->a, &health));
        break;
    case 2:
        for (uint32_t i = 0; i < 20; i++) {
            (void)TRY(u, us_object_stat(u->a, pick_pointer(u), &object));
        }
        break;
    case 3:
        if (u->cache_count != 0) {
            look_at_cache(u, pick_cache(u));
        }
        break;
    case 4:
        (void)TRY(u, us_pages_stat(u->a, below(&u->chance, u->a->nodes), &pages));
        break;
    default:
        (void)CALL(u, us_validate(u->a, u->cache_count == 0 ? NULL : pick_cache(u),
                                  ignore, NULL));
    }
}

static void repairs(struct user *u)
{
    struct us_reaped reaped;
    uint64_t bytes;

    if (one_in(&u->chance, 3)) {
        (void)TRY(u, us_arena_trim(u->a, &bytes));
    } else {
        (void)TRY(u, us_reap(u->a, &reaped));
    }
}

/* Everything, and at the end a look at all of it. The arena is attached. */
static void use_arena(struct user *u)
{
    uint32_t calls = 8 + below(&u->chance, 40);

    (void)TRY(u, us_cache_each(u->a, collect, u));
    while (calls-- != 0 && !u->wrong) {
        uint32_t what = below(&u->chance, 20);

        if (what < 2) {
            sharing(u);
        } else if (what < 5) {
            channels(u);
        } else if (what < 7) {
            sizes(u);
        } else if (what < 9) {
            looks(u);
        } else if (what < 10) {
            repairs(u);
        } else if (u->cache_count != 0) {
            if (what < 13) {
                caches(u);
            } else {
                objects(u);
            }
        }
    }
    (void)CALL(u, us_validate(u->a, NULL, ignore, NULL));
    while (u->channel_count != 0) {
        (void)TRY(u, us_channel_release(u->channels[--u->channel_count]));
    }
    begin(u, "us_arena_detach()");
    us_arena_detach(u->a);
}

#endif
