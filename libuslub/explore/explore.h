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
 * does its work. "X:n" is n steps at most, "X" all that is left, both up to where it
 * has to wait; "X~n" and "X~" go on waiting, as long as it takes; "X!" is a death.
 *
 * Does: interleavings of sequentially consistent steps, stops, deaths. Does not: what a
 * weak memory model adds, or two threads of one process.
 */
#ifndef US_EXPLORE_EXPLORE_H
#define US_EXPLORE_EXPLORE_H

#include <assert.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

#include "arena/handle.h"
#include "explore/sites.h"
#include "share/share.h"

#define ACTORS     4
#define STACK      (256 * 1024)
#define PATIENCE   100000 /* steps that an operation may take alone, without waiting */
#define WAITS_MAX  10000  /* waits that an operation may need */
#define TURNS_MAX  8
#define WANTED_MAX 6

/* Steps of a turn: so many, or one of these; THROUGH | n goes on when it has to wait.
 */
#define ALL     UINT64_MAX
#define DEATH   (UINT64_MAX - 1)
#define THROUGH (1ULL << 62)
#define END     (THROUGH | (THROUGH - 1)) /* all, waiting as often as it takes */

struct actor {
    us_arena *arena;
    us_cache *cache;
    struct us_tls tls;
    int fd;             /* the life lock is on it */
    ucontext_t context; /* where it begins ... */
    jmp_buf here;       /* ... and where it goes on */
    char *stack;
    void (*work)(struct actor *);
    bool begun, done, waits, dead;
    bool moved; /* its life lock may not be where it was */
    uint64_t steps;
    struct us_site *at; /* the access that it is about to make */
    us_err code;        /* its last failure, while others act */
    char text[512];
};

static struct actor actors[ACTORS];
static int actor_count;
static struct actor *running; /* NULL: nobody is explored now */
static uint64_t turn_ends;
static jmp_buf scheduler;
static uint64_t points, schedules, waits;
static long ticks; /* of the clock, since the arena was put back */

/* Where in the schedule that is played a site was met that has not been used yet. */
struct wanted {
    int turn;
    uint64_t steps; /* of this turn */
    struct us_site *site;
};
static struct wanted wanted[WANTED_MAX];
static int wanted_count, now_turn = -1;
static uint64_t turn_began;
static bool traces;       /* prints every step */
static bool names_sites;  /* prints which schedule is the first at a site */
static bool wants_deaths; /* a site that nobody died at has not been used */

/* ---- scheduling points ---- */

/* The last one is the reaper. */
static char name_of(int actor)
{
    return (char)(actor == ACTORS - 1 ? 'R' : 'A' + actor);
}

static void leave(bool waiting)
{
    struct actor *self = running;

    self->waits = waiting;
    self->tls = us_tls;
    self->code = us_last_code();
    if (self->code != US_OK) {
        (void)snprintf(self->text, sizeof(self->text), "%s", us_last_error());
    }
    running = NULL;
    if (_setjmp(self->here) == 0) {
        _longjmp(scheduler, 1);
    }
    us_last_clear();
    if (running->code != US_OK) {
        (void)us_fail(running->code, "%s", running->text);
    }
}

static void want(const struct actor *self, struct us_site *site)
{
    for (int i = 0; i < wanted_count; i++) {
        if (wanted[i].site == site) {
            return;
        }
    }
    if (wanted_count < WANTED_MAX) {
        wanted[wanted_count++] =
            (struct wanted){now_turn, self->steps - turn_began, site};
    }
}

void us_point(struct us_site *site)
{
    struct actor *self = running;

    if (self == NULL || site->own) {
        return;
    }
    points++;
    site = site->same;
    self->at = site;
    if (traces) {
        (void)printf("%c %llu %s:%u %s()\n", name_of((int)(self - actors)),
                     (unsigned long long)self->steps, site_file(site), site->line,
                     site->func);
    }
    if (self->steps == turn_ends) {
        site->stops++;
        leave(false);
    } else if (now_turn >= 0 &&
               (site->stops == 0 || (wants_deaths && site->kills == 0))) {
        want(self, site);
    }
    self->steps++;
}

bool us_wait_point(void)
{
    waits++;
    if (running != NULL) {
        leave(true);
    } else if (waits > 1000 * WAITS_MAX) {
        (void)fprintf(stderr, "explore: waits for ever outside of a schedule\n");
        abort();
    }
    return true;
}

static void begin(int number)
{
    struct actor *self = &actors[number];

    self->work(self);
    self->done = true;
    self->waits = false;
    self->tls = us_tls;
    running = NULL;
    _longjmp(scheduler, 1);
}

/* Up to `steps` steps of one actor. */
static void turn(int number, uint64_t steps)
{
    struct actor *self = &actors[number];

    if (self->work == NULL || self->done || self->dead) {
        return;
    }
    turn_ends = self->steps + steps;
    self->waits = false;
    us_tls = self->tls;
    if (_setjmp(scheduler) == 0) {
        running = self;
        if (self->begun) {
            _longjmp(self->here, 1);
        }
        self->begun = true;
        (void)getcontext(&self->context);
        self->context.uc_stack.ss_sp = self->stack;
        self->context.uc_stack.ss_size = STACK;
        self->context.uc_link = NULL;
        makecontext(&self->context, (void (*)(void))begin, 1, number);
        (void)setcontext(&self->context);
    }
    us_tls.id = US_TLS_NOBODY;
}

/* The same, going on whenever it waits. False: it still does. */
static bool turn_through(int number, uint64_t steps)
{
    struct actor *self = &actors[number];
    uint64_t end = steps >= THROUGH - 1 ? UINT64_MAX : self->steps + steps;

    for (int i = 0; i < WAITS_MAX; i++) {
        turn(number, end == UINT64_MAX ? PATIENCE : end - self->steps);
        if (!self->waits) {
            return true;
        }
    }
    return false;
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
    struct actor *self = &actors[number];

    if (!self->dead) {
        lock(self, F_UNLCK, 0, 0);
        self->dead = true;
        if (self->begun && !self->done && !self->waits && self->at != NULL) {
            self->at->kills++;
        }
        self->waits = false;
    }
}

/* ---- the arena, and its copy ---- */

static int arena_file;
static char *mapping;

/* The arena and the views at some moment. */
struct snapshot {
    uint64_t *pages; /* their numbers */
    size_t count;
    char *bytes;
    struct kept {
        struct us_arena arena;
        struct us_self self;
        struct us_tls tls;
        struct us_cache **handles;
    } kept[ACTORS];
};
static struct snapshot snapshots[2];
static struct snapshot *snapshot; /* what put_back() goes back to */

static void forget(struct snapshot *s)
{
    free(s->pages);
    free(s->bytes);
    for (int i = 0; i < ACTORS; i++) {
        free(s->kept[i].handles);
    }
    memset(s, 0, sizeof(*s));
}

static void keep_actor(const struct actor *self, struct kept *kept)
{
    size_t bytes = (self->arena->config.caches_max + 1) * sizeof(*kept->handles);

    kept->arena = *self->arena;
    kept->self = *self->arena->self;
    kept->tls = self->tls;
    kept->handles = malloc(bytes);
    assert(kept->handles != NULL);
    memcpy(kept->handles, self->arena->handles, bytes);
}

static void copy_arena(struct snapshot *s)
{
    struct us_arena *a = actors[0].arena;
    uint64_t pages = a->at.end >> US_PAGE_SHIFT;

    forget(s);
    s->pages = malloc(pages * sizeof(*s->pages));
    assert(s->pages != NULL);
    for (uint64_t page = 0; page < pages; page++) {
        if (us_committed(a, page << US_PAGE_SHIFT)) {
            s->pages[s->count++] = page;
        }
    }
    s->bytes = malloc(s->count << US_PAGE_SHIFT);
    assert(s->bytes != NULL);
    for (size_t i = 0; i < s->count; i++) {
        memcpy(s->bytes + (i << US_PAGE_SHIFT),
               mapping + (s->pages[i] << US_PAGE_SHIFT), US_PAGE_SIZE);
    }
    for (int i = 0; i < actor_count; i++) {
        keep_actor(&actors[i], &s->kept[i]);
    }
    snapshot = s;
}

/* Pages that were committed since are as empty as new ones. */
static void clear_new_pages(void)
{
    struct us_arena *a = actors[0].arena;
    size_t next = 0;

    for (uint64_t page = 0; page < a->at.end >> US_PAGE_SHIFT; page++) {
        if (next < snapshot->count && snapshot->pages[next] == page) {
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

/* Handles of caches that do not exist any more. */
static void put_back_handles(struct us_arena *a, const struct kept *kept)
{
    for (uint32_t id = 1; id <= a->config.caches_max; id++) {
        struct us_cache *s = a->handles[id];

        while (s != kept->handles[id]) {
            struct us_cache *older = s->older;

            free(s);
            s = older;
        }
        a->handles[id] = s;
    }
}

static void put_back_actor(struct actor *self, const struct kept *kept)
{
    struct us_arena *a = self->arena;
    struct us_refs extra = a->extra;
    void (*drop_handle)(struct us_cache *) = a->drop_handle;

    put_back_handles(a, kept);
    *a = kept->arena;
    a->drop_handle = drop_handle;
    *a->self = kept->self;
    a->extra = extra;
    if (extra.entries != NULL) {
        memset(extra.entries, 0, extra.room * sizeof(*extra.entries));
    }
    a->extra.used = 0;
    if (self->dead || self->moved) {
        lock(self, F_UNLCK, 0, 0);
    }
    self->tls = kept->tls;
    self->begun = self->done = self->waits = false;
    self->steps = 0;
    self->at = NULL;
}

static void put_back(void)
{
    clear_new_pages();
    for (size_t i = 0; i < snapshot->count; i++) {
        memcpy(mapping + (snapshot->pages[i] << US_PAGE_SHIFT),
               snapshot->bytes + (i << US_PAGE_SHIFT), US_PAGE_SIZE);
    }
    for (int i = 0; i < actor_count; i++) {
        put_back_actor(&actors[i], &snapshot->kept[i]);
    }
    for (int i = 0; i < actor_count; i++) {
        struct actor *self = &actors[i];

        if ((self->dead || self->moved) && self->arena->self->id != 0) {
            lock(self, F_WRLCK, (off_t)(US_LOCK_BASE + us_me(self->arena) - 1u), 1);
        }
        self->dead = self->moved = false;
    }
    for (int i = 0; i < 2 * ACTORS; i++) {
        us_registry_unlock(); /* of those who stopped in it; else it does nothing */
    }
    waits = 0;
    ticks = 0;
}

/* `count` participants of a new arena, each as if in a process of its own. */
static void open_actors(int count, const struct us_arena_config *config)
{
    us_arena *first;
    us_err err = us_arena_create(NULL, config, &first);

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
        assert(self->stack != NULL);
        us_tls.id = US_TLS_NOBODY;
        assert(us_thread_self(self->arena) != NULL);
        self->tls = us_tls;
    }
    us_tls.id = US_TLS_NOBODY;
}

static void close_actors(void)
{
    for (int i = 0; i < actor_count; i++) {
        free(actors[i].stack);
        (void)close(actors[i].fd);
        if (i > 0) {
            us_arena_handle_drop(actors[i].arena);
        }
    }
    forget(&snapshots[0]);
    forget(&snapshots[1]);
    memset(actors, 0, sizeof(actors));
}

/* ---- schedules ---- */

struct turn_of {
    int actor;
    uint64_t steps;
};

static bool is_through(uint64_t steps)
{
    return steps < DEATH && (steps & THROUGH);
}

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
        at += (size_t)snprintf(text + at, sizeof(text) - at, " %c%s", name_of(t->actor),
                               t->steps == DEATH      ? "!"
                               : is_through(t->steps) ? "~"
                               : t->steps == ALL      ? ""
                                                      : ":");
        if (t->steps < DEATH && t->steps != END) {
            at += (size_t)snprintf(text + at, sizeof(text) - at, "%llu",
                                   (unsigned long long)(t->steps & ~THROUGH));
        }
    }
    return text;
}

/* The reverse of it. */
static void read_turns(struct schedule *s, char **words, int count)
{
    for (int i = 0; i < count && i < TURNS_MAX; i++) {
        struct turn_of *t = &s->turns[s->count++];
        const char *number =
            words[i][0] == '\0' || words[i][1] == '\0' ? "" : words[i] + 2;

        t->actor = words[i][0] == 'R' ? ACTORS - 1 : words[i][0] - 'A';
        assert(t->actor >= 0 && t->actor < ACTORS);
        t->steps = *number != '\0' ? strtoull(number, NULL, 10) : ALL;
        if (words[i][1] == '~') {
            t->steps = *number != '\0' ? t->steps | THROUGH : END;
        } else if (words[i][1] == '!') {
            t->steps = DEATH;
        }
    }
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
        EXPECT(s, round < WAITS_MAX, "actors wait for each other for ever");
        all_done = true;
        for (int i = first; i <= last; i++) {
            turn(i, PATIENCE);
            if (actors[i].work != NULL && !actors[i].dead && !actors[i].done) {
                EXPECT(s, actors[i].waits, "%c does not end", name_of(i));
                all_done = false;
            }
        }
    }
}

static void play(const struct schedule *s)
{
    schedules++;
    wanted_count = 0;
    for (int i = 0; i < s->count; i++) {
        const struct turn_of *t = &s->turns[i];
        struct actor *self = &actors[t->actor];

        now_turn = i;
        turn_began = self->steps;
        if (t->steps == DEATH) {
            die(t->actor);
        } else if (!is_through(t->steps)) {
            turn(t->actor, t->steps == ALL ? PATIENCE : t->steps);
        } else {
            EXPECT(s, turn_through(t->actor, t->steps & ~THROUGH), "%c is stuck",
                   name_of(t->actor));
        }
        EXPECT(s,
               (t->steps != ALL && t->steps != END) || self->done || self->dead ||
                   self->waits || self->work == NULL,
               "%c does not end", name_of(t->actor));
    }
    now_turn = -1;
}

/*
 * The same schedule as far as turn `w->turn` came to the site; there its actor dies, or
 * stops until everybody else has acted.
 */
static struct schedule follow_up(const struct schedule *s, const struct wanted *w,
                                 bool dies)
{
    struct schedule next = {.name = s->name, .count = w->turn + 1};
    struct turn_of *t = &next.turns[w->turn];

    memcpy(next.turns, s->turns, (size_t)next.count * sizeof(*t));
    t->steps = w->steps | (is_through(t->steps) ? THROUGH : 0);
    if (dies && next.count < TURNS_MAX) {
        next.turns[next.count++] = (struct turn_of){t->actor, DEATH};
    }
    for (int i = w->turn + 1; i < s->count && next.count < TURNS_MAX; i++) {
        next.turns[next.count++] = s->turns[i];
    }
    return next;
}

#define FOLLOW 3 /* schedules after schedules */

typedef void (*play_fn)(const void *of, const struct schedule *s);

/* Plays it; a site that was met in it and not used before is used then. */
static void explore_from(play_fn fn, const void *of, const struct schedule *s,
                         int depth)
{
    struct wanted todo[WANTED_MAX];
    int todo_count;

    fn(of, s);
    todo_count = depth == FOLLOW ? 0 : wanted_count;
    memcpy(todo, wanted, sizeof(todo));
    for (int i = 0; i < todo_count; i++) {
        for (int dies = 0; dies <= (int)wants_deaths; dies++) {
            struct schedule next = follow_up(s, &todo[i], dies != 0);

            if (dies ? todo[i].site->kills != 0 : todo[i].site->stops != 0) {
                continue;
            }
            if (dies && next.count < TURNS_MAX) {
                next.turns[next.count++] = (struct turn_of){ACTORS - 1, END};
            }
            if (names_sites) {
                (void)printf("%s:%u %s: %s\n", site_file(todo[i].site),
                             todo[i].site->line, dies ? "kill" : "switch",
                             text_of(&next));
            }
            explore_from(fn, of, &next, depth + 1);
        }
    }
}

#include "explore/system.h"

#endif
