/* SPDX-License-Identifier: MIT */
/*
 * world_killer.c - the arena of one trial, the world's own work in it, and what must be
 * true when the victim has been reaped.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "killer.h"

const char *const mode_names[] = {"record", "kill", "late", "stop"};

/* ---- what goes wrong ---- */

_Noreturn void violation(const struct scene *s, const char *format, ...)
{
    va_list args;

    (void)printf("killer: %s %llu %s %u: ", s->operation->name,
                 (unsigned long long)s->at, mode_names[s->mode], s->script);
    va_start(args, format);
    (void)vprintf(format, args);
    va_end(args);
    (void)printf("\n");
    (void)fflush(stdout);
    _exit(1);
}

static void count_finding(const char *finding, void *arg)
{
    char **text = arg;

    if (*text == NULL) {
        *text = strdup(finding);
    }
}

/* ---- the arena ---- */

us_err scene_cache(struct scene *s)
{
    struct us_cache_config shape = US_CACHE_CONFIG_INIT;

    shape.object_size = OBJECT_SIZE;
    shape.order = 0;
    shape.min_partial = 1;
    shape.cpu_partial = 2; /* a chain of one slab */
    shape.flags = US_NO_MERGE | s->operation->cache_flags;
    return us_cache_create(s->arena, "thing", &shape, &s->cache);
}

static uint64_t pages_free(struct scene *s)
{
    struct us_pages_info info;
    us_err err = us_pages_stat(s->arena, 0, &info);

    EXPECT(s, err == US_OK, "no statistics of pages: %s", us_last_error());
    return info.free_pages;
}

void scene_open(struct scene *s)
{
    struct us_arena_config config = {.size = 1 << 20, .cpus = 2, .nodes = 1};
    us_err err;

    config.keep = 64 << 10; /* so that pages are given back, too */
    err = us_arena_create(NULL, &config, &s->arena);
    EXPECT(s, err == US_OK, "no arena: %s", us_last_error());
    err = scene_cache(s);
    EXPECT(s, err == US_OK, "no cache: %s", us_last_error());
    s->pages_free = pages_free(s);
    s->board->fd = us_arena_fd(s->arena);
}

/* After the fork, which would share it. */
void scene_pin(struct scene *s)
{
    s->pin = us_kmalloc(s->arena, 20000, 0, 0, -1);
    EXPECT(s, s->pin != NULL, "no pages: %s", us_last_error());
}

/* ---- holding ---- */

bool intact(struct scene *s, const void *object, uint32_t bytes, uint8_t fill)
{
    const uint8_t *data = object;

    (void)s;
    for (uint32_t i = 0; i < bytes; i++) {
        if (data[i] != fill) {
            return false;
        }
    }
    return true;
}

void hold(struct scene *s, void *object, uint32_t bytes, bool thing)
{
    uint32_t n = s->board->held_count[s->who];
    struct held *h = &s->board->held[s->who][n];

    EXPECT(s, object != NULL, "%s got nothing: %s", s->who ? "the victim" : "the world",
           us_last_error());
    EXPECT(s, n < HOLD_MAX, "the script holds too much");
    *h = (struct held){
        .offset = us_offset(s->arena, object),
        .bytes = bytes,
        .fill = s->who == WORLD ? (uint8_t)(n + 1) : FILL_VICTIM,
        .thing = thing,
    };
    memset(object, h->fill, bytes);
    s->board->held_count[s->who] = n + 1;
}

void *take(struct scene *s, int cpu)
{
    void *object = us_alloc_on(s->cache, 0, cpu, -1);

    hold(s, object, OBJECT_SIZE, true);
    return object;
}

void take_many(struct scene *s, int cpu, int count)
{
    for (int i = 0; i < count; i++) {
        (void)take(s, cpu);
    }
}

void *held_at(struct scene *s, enum who who, uint32_t index)
{
    return us_pointer(s->arena, s->board->held[who][index].offset);
}

void forget(struct scene *s, enum who who, uint32_t index)
{
    s->board->held[who][index].offset = 0;
}

void give(struct scene *s, uint32_t index, int cpu)
{
    struct held *h = &s->board->held[s->who][index];
    void *object = us_pointer(s->arena, h->offset);

    EXPECT(s, intact(s, object, h->bytes, h->fill), "object %u of %s is damaged", index,
           s->who ? "the victim" : "the world");
    EXPECT(s, us_kfree(s->arena, object, cpu) == US_OK, "free failed: %s",
           us_last_error());
    h->offset = 0;
}

void *subject(struct scene *s, uint32_t index)
{
    s->board->held[s->who][index].subject = true;
    return held_at(s, s->who, index);
}

/* ---- the world's work beside a victim that stands still ---- */

#define PATIENT_TRIALS 401
/* Seconds for one step: two locks, on a machine with other work. */
#define PATIENCE 6.0
/* On the victim's CPU: a, b alloc, u flush, f free of the newest; on the other one: A,
 * F (of the oldest); k large ones; q, Q small kmalloc and kfree; s shrink; r reap; d a
 * death and a reap. */
static const char *const scripts[SCRIPTS] = {
    "", "af", "aaaaa", "Ffa", "uaaf", "bFs", "rAkaKf", "qaFsaQ", "daaaaaf", "Fdabra",
};

const char *script_of(const struct scene *s)
{
    return scripts[s->script];
}

/* Never the same for neighbours, nor for the same place in a loop of ten. */
unsigned script_usual(uint64_t at)
{
    return (unsigned)((at + at / SCRIPTS) % SCRIPTS);
}

static double seconds(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void free_one(struct scene *s, bool newest, bool thing, int cpu)
{
    uint32_t count = s->board->held_count[WORLD];

    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = newest ? count - 1 - i : i;
        struct held *h = &s->board->held[WORLD][index];

        if (h->offset != 0 && h->thing == thing && !h->subject) {
            give(s, index, cpu);
            return;
        }
    }
}

static void bulk(struct scene *s)
{
    void *objects[3];

    EXPECT(s, us_alloc_bulk(s->cache, 0, 0, -1, 3, objects) == US_OK,
           "bulk allocation failed: %s", us_last_error());
    for (int i = 0; i < 3; i++) {
        hold(s, objects[i], OBJECT_SIZE, true);
    }
}

/* It may need what one who stands still has; then it has to say so. */
static void upkeep(struct scene *s, us_err err, const char *what)
{
    EXPECT(s,
           err == US_OK || err == US_ELOCKED ||
               (err == US_EOWNERDEAD && s->operation->casualty != NULL),
           "%s failed: %s", what, us_last_error());
}

/* Whoever wants all of a cache waits for two seconds then: not often. */
static bool would_wait(struct scene *s)
{
    struct us_thread_info threads[8];
    uint32_t count = us_arena_threads(s->arena, threads, 8);

    for (uint32_t i = 0; i < count && i < 8; i++) {
        if (threads[i].locks != 0 && s->at % PATIENT_TRIALS != 0) {
            return true;
        }
    }
    return false;
}

/* It says what it does when it has the lock. */
static bool has_lock(struct scene *s, pid_t pid)
{
    struct us_thread_info threads[8];
    uint32_t count = us_arena_threads(s->arena, threads, 8);

    for (uint32_t i = 0; i < count && i < 8; i++) {
        if (threads[i].tid == pid && threads[i].locks != 0 &&
            threads[i].operation[0] != '\0') {
            return true;
        }
    }
    return false;
}

/*
 * Its cache has to be made anew while the victim stands still in the middle of it: what
 * the victim has in hand must not be taken for free.
 */
static void doom(struct scene *s)
{
    struct us_reaped reaped;

    if (s->doomed == 0) {
        return;
    }
    for (int stage = 0; stage < 2; stage++) {
        EXPECT(s, trace_go(s->doomed) == SIGSTOP, "the doomed died before its time");
    }
    if (!would_wait(s)) {
        (void)trace_enter(s->doomed, doomed_operation.act);
        while (!has_lock(s, s->doomed) && trace_step(s->doomed) == SIGTRAP) {
        }
    }
    trace_kill(s->doomed);
    s->doomed = 0;
    upkeep(s, us_reap(s->arena, &reaped), "reap");
    EXPECT(s, reaped.processes <= 1, "a participant that stands still was reaped");
}

static void rival_step(struct scene *s, char what)
{
    struct us_reaped reaped;

    if ((what == 'u' || what == 's') && would_wait(s)) {
        return;
    }
    switch (what) {
    case 'a':
    case 'A':
        (void)take(s, what == 'a' ? 0 : 1);
        break;
    case 'b':
        bulk(s);
        break;
    case 'f':
    case 'F':
        free_one(s, what == 'f', true, what == 'f' ? 0 : 1);
        break;
    case 'k':
        hold(s, us_kmalloc(s->arena, 20000, 0, 0, -1), 20000, false);
        break;
    case 'q':
        if (!s->operation->names) {
            hold(s, us_kmalloc(s->arena, 100, 0, 0, -1), 100, false);
        }
        break;
    case 'K':
    case 'Q':
        free_one(s, true, false, 0);
        break;
    case 'u':
        upkeep(s, us_cache_flush(s->cache, 0), "flush");
        break;
    case 's':
        upkeep(s, us_cache_shrink(s->cache), "shrink");
        break;
    case 'd':
        doom(s);
        break;
    case 'r':
        upkeep(s, us_reap(s->arena, &reaped), "reap");
        EXPECT(s, reaped.processes <= (s->operation->casualty != NULL),
               "a participant that stands still was reaped");
        break;
    default:
        violation(s, "no such step: %c", what);
    }
}

void scene_rival(struct scene *s, const char *script)
{
    for (; *script != '\0'; script++) {
        double start = seconds(), took;

        rival_step(s, *script);
        took = seconds() - start;
        EXPECT(s, took < PATIENCE, "step %c of the world took %.1f s", *script, took);
    }
}

/* ---- what must be true at the end ---- */

static void check_reaped(struct scene *s)
{
    struct us_reaped reaped = {0};
    struct us_arena_info info;

    for (int tries = 0; tries < 3; tries++) {
        us_err err = us_reap(s->arena, &reaped);

        EXPECT(s, err == US_OK, "reap failed: %s", us_last_error());
        if (reaped.waiting == 0 && reaped.doubtful == 0) {
            break;
        }
    }
    EXPECT(s, reaped.waiting == 0, "%u dead participants wait", reaped.waiting);
    EXPECT(s, reaped.doubtful == 0, "%u caches are in doubt", reaped.doubtful);
    EXPECT(s, us_arena_stat(s->arena, &info) == US_OK && info.processes_dead == 0,
           "%u dead participants have slots", info.processes_dead);
    EXPECT(s, info.processes == 1, "%u participants instead of one", info.processes);
}

static void check_valid(struct scene *s, const char *when)
{
    char *text = NULL;
    uint64_t findings = us_validate(s->arena, NULL, count_finding, &text);

    EXPECT(s, findings == 0, "%llu findings %s, such as: %s",
           (unsigned long long)findings, when, text != NULL ? text : "");
}

static void check_holds(struct scene *s)
{
    for (uint32_t i = 0; i < s->board->held_count[WORLD]; i++) {
        const struct held *h = &s->board->held[WORLD][i];
        struct us_object_info info = {0};
        void *object = us_pointer(s->arena, h->offset);

        if (h->offset == 0) {
            continue;
        }
        EXPECT(s, us_object_stat(s->arena, object, &info) == US_OK,
               "object %u of the world is none: %s", i, us_last_error());
        if (h->subject && info.owner == 0 && !info.shared) {
            continue; /* it was handed over to the dead */
        }
        EXPECT(s, intact(s, object, h->bytes, h->fill),
               "object %u of the world (0x%llx) is damaged", i,
               (unsigned long long)h->offset);
        EXPECT(s, h->subject || info.owner == us_owner(s->arena),
               "object %u of the world belongs to %u", i, info.owner);
    }
}

/* The link of a free object is all that may be in it. */
static void check_zeroed(struct scene *s, enum who who)
{
    for (uint32_t i = 0; i < s->board->held_count[who]; i++) {
        const struct held *h = &s->board->held[who][i];
        const uint8_t *data = us_pointer(s->arena, h->offset);
        uint32_t left = 0;

        if (h->offset == 0 || h->subject) {
            continue;
        }
        for (uint32_t b = 0; b < h->bytes; b++) {
            left += data[b] == h->fill;
        }
        EXPECT(s, left <= sizeof(uint64_t),
               "%u bytes of object %u of the dead are left to read", left, i);
    }
}

static struct us_cache_info stat_of(struct scene *s, us_cache *cache)
{
    struct us_cache_info info = {0};

    EXPECT(s, us_cache_stat(cache, &info) == US_OK, "no statistics: %s",
           us_last_error());
    return info;
}

static void check_distinct(struct scene *s, const void *object)
{
    const struct held *h = s->board->held[WORLD];
    uint32_t count = s->board->held_count[WORLD];
    uint64_t offset = us_offset(s->arena, object);

    for (uint32_t i = 0; i < count; i++) {
        EXPECT(s, h[i].offset != offset, "0x%llx is handed out twice",
               (unsigned long long)offset);
    }
}

/* Every object that nobody holds can be had, once, without a new slab. */
static void check_drain(struct scene *s)
{
    struct us_cache_info before, after;
    uint64_t held = 0, want;

    EXPECT(s, us_cache_flush(s->cache, -1) == US_OK, "flush failed: %s",
           us_last_error());
    before = stat_of(s, s->cache);
    for (uint32_t i = 0; i < s->board->held_count[WORLD]; i++) {
        const struct held *h = &s->board->held[WORLD][i];

        held += h->offset != 0 && h->thing;
    }
    EXPECT(s, held <= before.objects_total, "%llu objects held, %llu exist",
           (unsigned long long)held, (unsigned long long)before.objects_total);
    want = before.objects_total - held;
    for (uint64_t i = 0; i < want; i++) {
        void *object = us_alloc_on(s->cache, 0, 0, -1);

        EXPECT(s, object != NULL, "free object %llu of %llu cannot be had: %s",
               (unsigned long long)i, (unsigned long long)want, us_last_error());
        check_distinct(s, object);
        hold(s, object, OBJECT_SIZE, true);
    }
    after = stat_of(s, s->cache);
    EXPECT(s, after.slabs == before.slabs,
           "%llu free objects needed %llu slabs more: some are lost",
           (unsigned long long)want, (unsigned long long)(after.slabs - before.slabs));
    (void)take(s, 0);
    after = stat_of(s, s->cache);
    EXPECT(s, after.slabs == before.slabs + 1, "one object more than free ones fitted");
}

static bool shrink_one(us_cache *cache, void *arg)
{
    struct scene *s = arg;
    struct us_cache_info info;

    EXPECT(s, us_cache_shrink(cache) == US_OK, "shrink failed: %s", us_last_error());
    info = stat_of(s, cache);
    EXPECT(s, info.slabs == 0 && info.objects_total == 0,
           "%llu slabs of empty cache '%s' remain", (unsigned long long)info.slabs,
           info.name);
    return true;
}

/* The lock of names is free, and a name can be used. */
static void check_names(struct scene *s)
{
    struct us_cache_config shape = US_CACHE_CONFIG_INIT;
    us_cache *cache = NULL;

    shape.object_size = 200;
    shape.flags = US_NO_MERGE;
    EXPECT(s, us_cache_create(s->arena, "last", &shape, &cache) == US_OK,
           "no new cache: %s", us_last_error());
    EXPECT(s, us_free(cache, us_alloc(cache)) == US_OK, "new cache: %s",
           us_last_error());
    EXPECT(s, us_cache_destroy(s->arena, "last") == US_OK, "destroy: %s",
           us_last_error());
}

void scene_check(struct scene *s)
{
    uint64_t pages;

    check_reaped(s);
    check_valid(s, "after the reap");
    check_holds(s);
    check_zeroed(s, VICTIM);
    check_zeroed(s, CASUALTY);
    if (s->operation->after != NULL) {
        s->operation->after(s);
    }
    check_drain(s);
    check_valid(s, "after the drain");
    for (uint32_t i = 0; i < s->board->held_count[WORLD]; i++) {
        if (s->board->held[WORLD][i].offset != 0) {
            give(s, i, (int)(i & 1));
        }
    }
    EXPECT(s, us_kfree(s->arena, s->pin, 0) == US_OK, "free: %s", us_last_error());
    check_names(s);
    EXPECT(s, us_cache_each(s->arena, shrink_one, s) == US_OK, "no walk: %s",
           us_last_error());
    pages = pages_free(s);
    EXPECT(s, pages == s->pages_free, "%llu free pages, there were %llu",
           (unsigned long long)pages, (unsigned long long)s->pages_free);
    check_valid(s, "at the end");
}
