/* SPDX-License-Identifier: MIT */
/*
 * explore.h - runs the engine's own code under every schedule of a few actors.
 *
 * Each actor is a participant of one arena with a view and a life lock of its own, on a
 * stack of its own; the code is built so that every access to shared memory calls
 * us_point(), where the schedule may go on with another actor or kill this one. One
 * schedule takes some microseconds: the arena is put back from a copy in between.
 *
 * A schedule is a list of turns; its text, such as "A:17 B:4 A! B R", can be given to
 * the program to run it again: A takes 17 steps, B four, A dies, B ends, R (the reaper)
 * does its work. "X:n" is n steps at most, "X" all that is left, "X!" a death.
 *
 * Does: interleavings of sequentially consistent steps, stops, deaths. Does not: what a
 * weak memory model adds, or two threads of one process.
 */
#ifndef US_EXPLORE_EXPLORE_H
#define US_EXPLORE_EXPLORE_H

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

#include "arena/handle.h"
#include "share/share.h"

#define ACTORS    4
#define STACK     (256 * 1024)
#define PATIENCE  20000 /* steps that an operation may take alone */
#define TURNS_MAX 8

struct actor {
    us_arena *arena;
    us_cache *cache;
    struct us_tls tls;
    int fd; /* the life lock is on it */
    ucontext_t context;
    char *stack;
    void (*work)(struct actor *);
    bool begun, done, waits, dead;
    uint64_t steps;
    void *data; /* of the test */
    /* As they were when the copy was made. */
    struct us_arena kept;
    struct us_tls kept_tls;
};

static struct actor actors[ACTORS];
static int actor_count;
static struct actor *running; /* NULL: nobody is explored now */
static uint64_t turn_ends;
static ucontext_t scheduler;
static uint64_t points, schedules;

/* ---- scheduling points ---- */

static void leave(bool waits)
{
    struct actor *self = running;

    self->waits = waits;
    self->tls = us_tls;
    running = NULL;
    (void)swapcontext(&self->context, &scheduler);
}

void us_point(void)
{
    if (running == NULL) {
        return;
    }
    points++;
    if (running->steps++ == turn_ends) {
        leave(false);
    }
}

bool us_wait_point(void)
{
    if (running != NULL) {
        leave(true);
    }
    return true;
}

static void begin(int number)
{
    struct actor *self = &actors[number];

    self->work(self);
    self->done = true;
    self->tls = us_tls;
    running = NULL;
    (void)swapcontext(&self->context, &scheduler);
}

/* Up to `steps` steps of one actor. */
static void turn(int number, uint64_t steps)
{
    struct actor *self = &actors[number];

    if (self->work == NULL || self->done || self->dead) {
        return;
    }
    if (!self->begun) {
        self->begun = true;
        (void)getcontext(&self->context);
        self->context.uc_stack.ss_sp = self->stack;
        self->context.uc_stack.ss_size = STACK;
        self->context.uc_link = NULL;
        makecontext(&self->context, (void (*)(void))begin, 1, number);
    }
    turn_ends = self->steps + steps;
    self->waits = false;
    us_tls = self->tls;
    running = self;
    (void)swapcontext(&scheduler, &self->context);
    us_tls.id = US_TLS_NOBODY;
}

/* What is outside of a schedule, done as this actor. */
static void as(int number, void (*work)(struct actor *))
{
    us_tls = actors[number].tls;
    work(&actors[number]);
    actors[number].tls = us_tls;
    us_tls.id = US_TLS_NOBODY;
}

static void lock(struct actor *self, short type, off_t start, off_t length)
{
    struct flock range = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = start,
        .l_len = length,
    };
    int failed = fcntl(self->fd, F_OFD_SETLK, &range);

    assert(failed == 0);
    (void)failed;
}

/* The kernel drops all locks of a description. */
static void die(int number)
{
    if (!actors[number].dead) {
        lock(&actors[number], F_UNLCK, 0, 0);
        actors[number].dead = true;
    }
}

/* ---- the arena, and its copy ---- */

static int arena_file;
static char *mapping, *copy;
static uint64_t *copied; /* page numbers */
static size_t copied_count;

/* Everything is committed beforehand: giving back is not explored here. */
static void copy_arena(void)
{
    struct us_arena *a = actors[0].arena;
    uint64_t pages = a->at.end >> US_PAGE_SHIFT;

    copied = malloc(pages * sizeof(*copied));
    copied_count = 0;
    for (uint64_t page = 0; page < pages; page++) {
        if (us_committed(a, page << US_PAGE_SHIFT)) {
            copied[copied_count++] = page;
        }
    }
    copy = malloc(copied_count << US_PAGE_SHIFT);
    assert(copied != NULL && copy != NULL);
    for (size_t i = 0; i < copied_count; i++) {
        memcpy(copy + (i << US_PAGE_SHIFT), mapping + (copied[i] << US_PAGE_SHIFT),
               US_PAGE_SIZE);
    }
    for (int i = 0; i < actor_count; i++) {
        actors[i].kept = *actors[i].arena;
        actors[i].kept_tls = actors[i].tls;
    }
}

/* Pages that were committed since are as empty as new ones. */
static void clear_new_pages(void)
{
    struct us_arena *a = actors[0].arena;
    size_t next = 0;

    for (uint64_t page = 0; page < a->at.end >> US_PAGE_SHIFT; page++) {
        if (next < copied_count && copied[next] == page) {
            next++;
        } else if (page % 64 == 0 &&
                   ((uint64_t *)us_at(a, a->at.commit_map))[page / 64] == 0) {
            page += 63;
        } else if (us_committed(a, page << US_PAGE_SHIFT)) {
            memset(mapping + (page << US_PAGE_SHIFT), 0, US_PAGE_SIZE);
        }
    }
}

static int open_again(void)
{
    char path[64];
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", arena_file);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert(fd >= 0);
    return fd;
}

static void put_back(void)
{
    clear_new_pages();
    for (size_t i = 0; i < copied_count; i++) {
        memcpy(mapping + (copied[i] << US_PAGE_SHIFT), copy + (i << US_PAGE_SHIFT),
               US_PAGE_SIZE);
    }
    for (int i = 0; i < actor_count; i++) {
        struct actor *self = &actors[i];
        struct us_refs extra = self->arena->extra;

        self->kept.handles = self->arena->handles;
        self->kept.drop_handle = self->arena->drop_handle;
        *self->arena = self->kept;
        self->arena->extra = extra;
        if (extra.entries != NULL) {
            memset(extra.entries, 0, extra.room * sizeof(*extra.entries));
        }
        self->arena->extra.used = 0;
        if (self->dead) {
            lock(self, F_WRLCK, (off_t)(US_LOCK_BASE + us_me(self->arena) - 1u), 1);
            self->dead = false;
        }
        self->tls = self->kept_tls;
        self->begun = self->done = self->waits = false;
        self->steps = 0;
    }
}

/* `count` participants of a new arena of 2 MiB, each as if in a process of its own. */
static void open_actors(int count)
{
    struct us_arena_config config = {.size = 2 << 20, .cpus = 1, .nodes = 1};
    us_arena *first;
    us_err err = us_arena_create(NULL, &config, &first);

    assert(err == US_OK);
    arena_file = us_arena_fd(first);
    mapping = first->base;
    actor_count = count;
    for (int i = 0; i < count; i++) {
        struct actor *self = &actors[i];

        self->arena = first;
        self->fd = first->fd;
        if (i > 0) {
            self->fd = open_again();
            self->arena = us_arena_handle_new(NULL, self->fd);
            assert(self->arena != NULL);
            self->arena->config = first->config;
            self->arena->at = first->at;
            err = us_arena_map(self->arena);
            assert(err == US_OK);
            err = us_process_register(self->arena);
            assert(err == US_OK);
        }
        self->arena->reaped_ns = INT64_MAX; /* nobody reaps but when it is told to */
        self->stack = malloc(STACK);
        us_tls.id = US_TLS_NOBODY;
        assert(us_thread_self(self->arena) != NULL && self->stack != NULL);
        self->tls = us_tls;
    }
    us_tls.id = US_TLS_NOBODY;
}

/* ---- schedules ---- */

struct turn_of {
    int actor;
    uint64_t steps; /* UINT64_MAX: all; DEATH: none */
};
#define ALL   UINT64_MAX
#define DEATH (UINT64_MAX - 1)

struct schedule {
    const char *name;
    struct turn_of turns[TURNS_MAX];
    int count;
};

static const char *text_of(const struct schedule *s)
{
    static char text[200];
    size_t at = (size_t)snprintf(text, sizeof(text), "%s", s->name);

    for (int i = 0; i < s->count; i++) {
        const struct turn_of *t = &s->turns[i];
        const char *form = t->steps == ALL     ? " %c"
                           : t->steps == DEATH ? " %c!"
                                               : " %c:%llu";

        at += (size_t)snprintf(text + at, sizeof(text) - at, form, 'A' + t->actor,
                               (unsigned long long)t->steps);
    }
    return text;
}

/* One line says how to see it again. */
#define EXPECT(s, holds, ...)                                                          \
    do {                                                                               \
        if (!(holds)) {                                                                \
            (void)fprintf(stderr, "explore: %s: ", text_of(s));                        \
            (void)fprintf(stderr, __VA_ARGS__);                                        \
            (void)fprintf(stderr, "\n");                                               \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

/* Those who are alive end what they began; they may have to wait for each other. */
static void finish(const struct schedule *s, int first, int last)
{
    bool all_done = false;

    for (int round = 0; !all_done; round++) {
        EXPECT(s, round < 100, "actors wait for each other for ever");
        all_done = true;
        for (int i = first; i <= last; i++) {
            turn(i, PATIENCE);
            if (actors[i].work != NULL && !actors[i].dead && !actors[i].done) {
                EXPECT(s, actors[i].waits, "%c does not end", 'A' + i);
                all_done = false;
            }
        }
    }
}

static void play(const struct schedule *s)
{
    schedules++;
    for (int i = 0; i < s->count; i++) {
        const struct turn_of *t = &s->turns[i];

        if (t->steps == DEATH) {
            die(t->actor);
        } else {
            turn(t->actor, t->steps == ALL ? PATIENCE : t->steps);
        }
    }
}

#endif
