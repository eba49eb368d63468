/* SPDX-License-Identifier: MIT */
/*
 * operations_chaos.c - one random call of the engine after another, each beside its
 * entry in the oracle: after the call for what is handed out, before it for what is
 * given back.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "chaos/worker.h"

static const uint64_t cache_sizes[CACHES] = {32, 192, 1000, 6000};
static const char *const cache_names[CACHES] = {"small", "middle", "page", "big"};

#define NO_ROOM (MAY(US_ENOMEM) | MAY(US_ELIMIT) | MAY(US_ELOCKED))

/* As uslub's Python binding packs it. */
struct wire {
    uint8_t id[16];
    uint64_t offset;
    uint32_t incarnation, record, serial;
    uint64_t nbytes;
} __attribute__((packed));
_Static_assert(sizeof(struct wire) == CHAOS_WIRE, "a handle of a named arena");

static int some_cpu(void)
{
    return (int)dice(worker.info.cpus + 1) - 1;
}

/* ---- what this process holds ---- */

static void keep(void *memory, uint64_t nbytes, int cache)
{
    struct hold h = {
        .memory = memory,
        .offset = us_offset(worker.arena, memory),
        .nbytes = nbytes,
        .holds = 1,
        .cache = cache,
        .alone = true,
    };

    h.serial = chaos_take(worker.oracle, worker.chair, h.offset, memory, nbytes);
    (void)pthread_mutex_lock(&worker.lock);
    if (worker.count < HOLDS) {
        worker.holds[worker.count++] = h;
        h.holds = 0;
    } else {
        chaos_drop(worker.oracle, worker.chair, h.offset, memory, nbytes, h.serial);
    }
    (void)pthread_mutex_unlock(&worker.lock);
    if (h.holds != 0 && us_kfree(worker.arena, memory, -1) != US_OK) {
        refused("free of one too many", us_last_code(), 0);
    }
}

/* Received or adopted: `holds` of it may be in other hands of this process. */
static void keep_of_others(void *memory, uint64_t nbytes)
{
    uint64_t offset = us_offset(worker.arena, memory);
    bool full = false;

    (void)pthread_mutex_lock(&worker.lock);
    for (uint32_t i = 0; i < worker.count; i++) {
        if (worker.holds[i].offset == offset) {
            worker.holds[i].holds++;
            goto done;
        }
    }
    full = worker.count == HOLDS;
    if (!full) {
        worker.holds[worker.count++] = (struct hold){
            .memory = memory,
            .offset = offset,
            .nbytes = nbytes,
            .serial = chaos_join(worker.oracle, worker.chair, offset, memory, nbytes),
            .holds = 1,
            .cache = -1,
        };
    }
done:
    (void)pthread_mutex_unlock(&worker.lock);
    if (full && us_kfree(worker.arena, memory, -1) != US_OK) {
        refused("free of a message too many", us_last_code(), 0);
    }
}

static void remove_hold(uint32_t i)
{
    struct hold *h = worker.holds + i;

    if (--h->holds == 0) {
        chaos_drop(worker.oracle, worker.chair, h->offset, h->memory, h->nbytes,
                   h->serial);
        *h = worker.holds[--worker.count];
    }
}

/* Takes one that `fits` out of the list and the oracle; the caller gives it back. */
static bool take_out(struct hold *ret, bool (*fits)(const struct hold *))
{
    bool found = false;

    (void)pthread_mutex_lock(&worker.lock);
    for (uint32_t tries = 0; tries < 8 && worker.count != 0 && !found; tries++) {
        uint32_t i = dice(worker.count);

        found = worker.holds[i].busy == 0 && fits(worker.holds + i);
        if (found) {
            *ret = worker.holds[i];
            remove_hold(i);
        }
    }
    (void)pthread_mutex_unlock(&worker.lock);
    return found;
}

static bool any(const struct hold *h)
{
    (void)h;
    return true;
}

static bool moves(const struct hold *h)
{
    return h->alone && h->cache < 0;
}

static bool single(const struct hold *h)
{
    return h->alone;
}

static us_err give_back(const struct hold *h)
{
    us_err err;

    if (h->cache >= 0 && dice(2)) {
        ENGINE(err = us_free_on(worker.caches[h->cache], h->memory, some_cpu()));
    } else {
        ENGINE(err = us_kfree(worker.arena, h->memory, some_cpu()));
    }
    return err;
}

void let_go_of_all(bool free_them)
{
    struct hold h;

    for (;;) {
        (void)pthread_mutex_lock(&worker.lock);
        if (worker.count == 0) {
            (void)pthread_mutex_unlock(&worker.lock);
            return;
        }
        h = worker.holds[worker.count - 1];
        remove_hold(worker.count - 1);
        (void)pthread_mutex_unlock(&worker.lock);
        if (free_them && give_back(&h) != US_OK) {
            refused("last free", us_last_code(), 0);
        }
    }
}

/* ---- operations ---- */

static void do_alloc(void)
{
    int which = (int)dice(CACHES), node = (int)dice(worker.info.nodes + 1) - 1;
    void *memory = NULL;

    if (dice(2)) {
        ENGINE(memory = us_alloc(worker.caches[which]));
    } else {
        ENGINE(memory = us_alloc_on(worker.caches[which], 0, some_cpu(), node));
    }
    if (memory == NULL) {
        refused("alloc", us_last_code(), NO_ROOM);
        return;
    }
    keep(memory, cache_sizes[which], which);
}

static void do_free(void)
{
    struct hold h;

    if (take_out(&h, any) && give_back(&h) != US_OK) {
        refused("free", us_last_code(), 0);
    }
}

static void do_bulk_alloc(void)
{
    int which = (int)dice(CACHES);
    size_t n = 1 + dice(BULK);
    void *memory[BULK];
    us_err err;

    ENGINE(err = us_alloc_bulk(worker.caches[which], 0, some_cpu(), -1, n, memory));
    for (size_t i = 0; i < n && err == US_OK; i++) {
        keep(memory[i], cache_sizes[which], which);
    }
    if (err != US_OK) {
        refused("alloc_bulk", err, NO_ROOM);
    }
}

static void do_bulk_free(void)
{
    uint32_t n = 0, wanted = 1 + dice(BULK);
    int which = (int)dice(CACHES);
    void *memory[BULK];
    us_err err;

    (void)pthread_mutex_lock(&worker.lock);
    for (uint32_t i = worker.count; i-- > 0 && n < wanted;) {
        if (worker.holds[i].cache == which && worker.holds[i].holds == 1 &&
            worker.holds[i].busy == 0) {
            memory[n++] = worker.holds[i].memory;
            remove_hold(i);
        }
    }
    (void)pthread_mutex_unlock(&worker.lock);
    if (n != 0) {
        ENGINE(err = us_free_bulk(worker.caches[which], n, memory, some_cpu()));
        if (err != US_OK) {
            refused("free_bulk", err, 0);
        }
    }
}

static void kmalloc(uint64_t nbytes)
{
    void *memory = NULL;

    ENGINE(memory = us_kmalloc(worker.arena, nbytes, dice(4) ? 0 : US_GFP_ZERO,
                               some_cpu(), -1));
    if (memory == NULL) {
        refused("kmalloc", us_last_code(), NO_ROOM);
        return;
    }
    keep(memory, nbytes, -1);
}

static void do_kmalloc(void)
{
    kmalloc(8 + dice(4000));
}

static void do_large(void)
{
    kmalloc(8193 + dice(150000));
}

static void do_krealloc(void)
{
    uint64_t nbytes = dice(3) ? 8 + dice(9000) : 8 + dice(100000), common;
    void *memory = NULL;
    struct hold h;

    if (!take_out(&h, moves)) {
        return;
    }
    ENGINE(memory = us_krealloc(worker.arena, h.memory, nbytes, 0, some_cpu()));
    if (memory == NULL) {
        refused("krealloc", us_last_code(), NO_ROOM | MAY(US_ENOTOWNER)); /* a fork */
        keep(h.memory, h.nbytes, -1);
        return;
    }
    common = nbytes < h.nbytes ? nbytes : h.nbytes;
    if (!chaos_intact(memory, common, h.offset, h.serial)) {
        chaos_complain(worker.oracle, worker.chair, "krealloc lost the contents");
    }
    keep(memory, nbytes, -1);
}

/* ---- between processes ---- */

/* Chooses what to send; nobody here gives it back until sent(). */
static bool about_to_send(struct hold *ret)
{
    struct hold *h;

    (void)pthread_mutex_lock(&worker.lock);
    if (worker.count == 0) {
        (void)pthread_mutex_unlock(&worker.lock);
        return false;
    }
    h = worker.holds + dice(worker.count);
    chaos_share(worker.oracle, worker.chair, h->offset);
    h->alone = false;
    h->busy++;
    *ret = *h;
    (void)pthread_mutex_unlock(&worker.lock);
    return true;
}

static void sent(const struct hold *h)
{
    (void)pthread_mutex_lock(&worker.lock);
    for (uint32_t i = 0; i < worker.count; i++) {
        if (worker.holds[i].memory == h->memory) {
            worker.holds[i].busy--;
        }
    }
    (void)pthread_mutex_unlock(&worker.lock);
}

static void do_send(void)
{
    us_channel *channel = worker.channels[dice(worker.channels_count)];
    struct us_message message;
    struct hold h;
    us_err err;

    if (!about_to_send(&h)) {
        return;
    }
    message = (struct us_message){.object = h.memory, .nbytes = h.nbytes};
    ENGINE(err = us_channel_send(channel, &message, dice(2) ? 0 : 2000000));
    if (err != US_OK) {
        refused("channel_send", err, MAY(US_ETIMEDOUT) | NO_ROOM);
    }
    sent(&h);
}

static void do_receive(void)
{
    us_channel *channel = worker.channels[dice(worker.channels_count)];
    struct us_message message = {0};
    us_err err;

    ENGINE(err = us_channel_receive(channel, &message, dice(2) ? 0 : 2000000));
    if (err == US_OK) {
        keep_of_others(message.object, message.nbytes);
    } else {
        refused("channel_receive", err, MAY(US_ETIMEDOUT) | NO_ROOM);
    }
}

static void pack(struct wire *wire, const struct us_ticket *ticket, uint64_t nbytes)
{
    memcpy(wire->id, worker.info.id, sizeof(wire->id));
    wire->offset = ticket->offset;
    wire->incarnation = ticket->incarnation;
    wire->record = ticket->record;
    wire->serial = ticket->serial;
    wire->nbytes = nbytes;
}

static void do_ticket(void)
{
    struct us_ticket ticket;
    struct wire wire;
    struct hold h;
    us_err err;

    if (!about_to_send(&h)) {
        return;
    }
    ENGINE(err = us_send(worker.arena, h.memory, &ticket));
    if (err == US_OK) {
        pack(&wire, &ticket, h.nbytes);
        (void)chaos_put(worker.oracle, worker.chair, &wire, 0); /* or it is lost */
    } else {
        refused("send", err, NO_ROOM);
    }
    sent(&h);
}

static void unpack(const struct wire *wire, struct us_ticket *ticket)
{
    *ticket =
        (struct us_ticket){wire->offset, wire->incarnation, wire->record, wire->serial};
}

static void do_claim(void)
{
    struct us_ticket ticket;
    struct wire wire;
    uint32_t from;
    void *memory;
    us_err err;

    if (!chaos_get(worker.oracle, worker.chair, &wire, &from, false)) {
        return;
    }
    unpack(&wire, &ticket);
    ENGINE(err = us_receive(worker.arena, &ticket, &memory));
    if (err == US_OK) {
        keep_of_others(memory, wire.nbytes);
    } else {
        refused("receive", err, MAY(US_ESTALE) | NO_ROOM); /* its sender has died */
    }
}

/* Nobody's while it is on the board: if nobody adopts it, it goes with its sender. */
static void do_move(void)
{
    struct us_ticket ticket = {0};
    struct wire wire;
    struct hold h;
    us_err err;

    if (!take_out(&h, single)) {
        return;
    }
    ticket.offset = h.offset;
    pack(&wire, &ticket, h.nbytes);
    chaos_offer(worker.oracle, h.offset, h.serial);
    ENGINE(err = us_move(worker.arena, h.memory));
    if (err != US_OK) {
        /* Another thread forked meanwhile: now it is the child's as well. */
        refused("move", err, MAY(US_ENOTOWNER));
        keep_of_others(h.memory, h.nbytes);
        return;
    }
    if (!chaos_put(worker.oracle, worker.chair, &wire, us_owner(worker.arena))) {
        ENGINE(err = us_adopt(worker.arena, h.offset, us_owner(worker.arena)));
        if (err == US_OK) {
            keep_of_others(h.memory, h.nbytes);
        } else {
            refused("adopt of one's own", err, 0);
        }
    }
}

/* What was moved by a process that died is freed, and perhaps moved by another since:
 * then it is that other's, with its own size. */
static void do_adopt(void)
{
    struct us_object_info info = {0};
    struct wire wire;
    uint32_t from;
    us_err err;

    if (!chaos_get(worker.oracle, worker.chair, &wire, &from, true)) {
        return;
    }
    ENGINE(err = us_adopt(worker.arena, wire.offset, (uint16_t)from));
    if (err != US_OK) {
        refused("adopt", err,
                MAY(US_ENOTOWNER) | MAY(US_EFOREIGN) | MAY(US_EDOUBLEFREE));
        return;
    }
    ENGINE(err = us_object_stat(worker.arena, us_pointer(worker.arena, wire.offset),
                                &info));
    if (err == US_OK && wire.nbytes <= info.usable) {
        keep_of_others(us_pointer(worker.arena, wire.offset), 8);
    } else if (err != US_OK) {
        refused("look at an adopted object", err, 0);
    }
}

/* ---- upkeep ---- */

static void do_upkeep(enum chaos_operation operation)
{
    us_cache *cache = worker.caches[dice(CACHES)];
    uint64_t bytes;
    us_err err;

    if (operation == CHAOS_FLUSH) {
        ENGINE(err = us_cache_flush(cache, some_cpu()));
    } else if (operation == CHAOS_SHRINK) {
        ENGINE(err = us_cache_shrink(cache));
    } else if (operation == CHAOS_TUNE) {
        ENGINE(err = us_cache_set_cpu_partial(cache, dice(40)));
    } else {
        ENGINE(err = us_arena_trim(worker.arena, &bytes));
    }
    if (err != US_OK) {
        refused(chaos_name(operation), err, MAY(US_ELOCKED));
    }
}

static uint64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void do_reap(void)
{
    struct chaos_chair *c = worker.oracle->chairs + worker.chair;
    struct us_reaped reaped = {0};
    uint64_t start = now_ns(), took;
    us_err err;

    ENGINE(err = us_reap(worker.arena, &reaped));
    took = now_ns() - start;
    if (err != US_OK) {
        refused("reap", err, NO_ROOM);
        return;
    }
    c->reaped += reaped.processes;
    if (took > c->reap_max_ns) {
        c->reap_max_ns = took;
    }
}

/* ---- caches that come and go ---- */

static void temporary_name(char name[16])
{
    (void)snprintf(name, 16, "temporary-%u", dice(6));
}

/* Others may destroy it as soon as it holds no object. */
static void do_create(void)
{
    struct us_cache_config shape = US_CACHE_CONFIG_INIT;
    void *memory[3] = {NULL};
    us_cache *cache;
    char name[16];
    us_err err;

    temporary_name(name);
    shape.object_size = 64;
    shape.flags = US_NO_MERGE;
    ENGINE(err = us_cache_create(worker.arena, name, &shape, &cache));
    if (err != US_OK) {
        refused("cache_create", err, NO_ROOM);
        return;
    }
    for (int i = 0; i < 3; i++) {
        ENGINE(memory[i] = us_alloc(cache));
        if (memory[i] == NULL) {
            refused("alloc of a temporary", us_last_code(), NO_ROOM | MAY(US_ENOCACHE));
        }
    }
    for (int i = 0; i < 3; i++) {
        if (memory[i] == NULL) {
            continue;
        }
        ENGINE(err = us_kfree(worker.arena, memory[i], -1));
        if (err != US_OK) {
            refused("free of a temporary", err, 0);
        }
    }
}

static void do_destroy(void)
{
    char name[16];
    us_err err;

    temporary_name(name);
    ENGINE(err = us_cache_destroy(worker.arena, name));
    if (err != US_OK) {
        refused("cache_destroy", err,
                MAY(US_ENOCACHE) | MAY(US_EBUSY) | MAY(US_ELOCKED));
    }
}

/* ---- all of them ---- */

static bool open_channel(uint32_t i)
{
    us_channel **channel = worker.channels + worker.channels_count;
    struct us_ticket ticket;
    struct wire wire;
    void *object;
    us_err err;

    memcpy(&wire, worker.oracle->channel[i], sizeof(wire));
    unpack(&wire, &ticket);
    err = us_receive(worker.arena, &ticket, &object);
    if (err == US_OK) {
        err = us_channel_open(worker.arena, object, channel);
    }
    if (err != US_OK) {
        refused("opening a channel", err, NO_ROOM);
        return false;
    }
    worker.channels_count++;
    return true;
}

bool open_arena(const char *name)
{
    us_err err = us_arena_attach(name, &worker.arena);

    /* All places may belong to dead ones that wait for a stopped process. */
    if (err != US_OK) {
        refused("attach", err, NO_ROOM);
        return false;
    }
    worker.channels_count = 0;
    err = us_arena_stat(worker.arena, &worker.info);
    for (int i = 0; i < CACHES && err == US_OK; i++) {
        err = us_cache_find(worker.arena, cache_names[i], worker.caches + i);
    }
    if (err != US_OK) {
        refused("opening the caches", err, NO_ROOM);
        us_arena_detach(worker.arena);
        return false;
    }
    for (uint32_t i = 0; i < worker.oracle->channels; i++) {
        if (!open_channel(i)) {
            us_arena_detach(worker.arena);
            return false;
        }
    }
    return true;
}

static const struct {
    enum chaos_operation operation;
    uint32_t weight;
    void (*run)(void);
} table[] = {
    {CHAOS_ALLOC, 300, do_alloc},
    {CHAOS_FREE, 300, do_free},
    {CHAOS_BULK_ALLOC, 40, do_bulk_alloc},
    {CHAOS_BULK_FREE, 60, do_bulk_free},
    {CHAOS_KMALLOC, 100, do_kmalloc},
    {CHAOS_LARGE, 30, do_large},
    {CHAOS_KREALLOC, 50, do_krealloc},
    {CHAOS_SEND, 40, do_send},
    {CHAOS_RECEIVE, 60, do_receive},
    {CHAOS_TICKET, 20, do_ticket},
    {CHAOS_CLAIM, 30, do_claim},
    {CHAOS_MOVE, 20, do_move},
    {CHAOS_ADOPT, 20, do_adopt},
    {CHAOS_FLUSH, 10, NULL},
    {CHAOS_SHRINK, 10, NULL},
    {CHAOS_TUNE, 2, NULL},
    {CHAOS_TRIM, 4, NULL},
    {CHAOS_CREATE, 6, do_create},
    {CHAOS_DESTROY, 6, do_destroy},
    {CHAOS_REAP, 6, do_reap},
};

void operate(void)
{
    uint32_t count = sizeof(table) / sizeof(table[0]), sum = 0, roll, i = 0;

    for (uint32_t k = 0; k < count; k++) {
        sum += table[k].weight;
    }
    /* What fills up is emptied. */
    if (worker.count > HOLDS / 2 + dice(HOLDS / 2)) {
        chaos_begin(worker.oracle, worker.chair, hand->thread, CHAOS_FREE);
        do_free();
        return;
    }
    for (roll = dice(sum); roll >= table[i].weight; i++) {
        roll -= table[i].weight;
    }
    chaos_begin(worker.oracle, worker.chair, hand->thread, table[i].operation);
    if (table[i].run != NULL) {
        table[i].run();
    } else {
        do_upkeep(table[i].operation);
    }
}
