/* SPDX-License-Identifier: MIT */
/*
 * sharing_explore.c - every schedule of two actors that share, send, receive, drop and
 * reap, with deaths at every step, also of the reaper.
 *
 *   sharing_explore            what `make test` runs
 *   sharing_explore deep       eight times as many pairs of steps (make check)
 *   sharing_explore NAME A:17 B A! ...    one schedule again
 *
 * After each: whoever is alive holds what it was told it holds, and nobody else holds
 * anything; validate() is clean; when all are dead, nothing is left.
 */
#include "explore/sharing_explore_ops.h"

/* Where every site must have been left, and died at. */
static const char *const files[] = {
    "cache/hold.c", "cache/hold.h",  "share/channel.c",
    "share/reap.c", "share/share.h", "share/ticket.c",
    NULL,
};
#define WAITS "sleeps in the kernel, for a time"
static struct exemption excused[] = {
    {"cache/hold.c", "us_hold_send", "an object that is not ours", true, false},
    {"cache/hold.c", "us_hold_remove", "an object that is not ours", true, false},
    {"share/channel.c", "us_channel_wait", WAITS, true, false},
    {"share/channel.c", "wait_for", WAITS, true, false},
    {"share/channel.c", "spin_for", WAITS, true, false},
    {"share/channel.c", "sleep_on", WAITS, true, false},
    {"share/channel.c", "wake", WAITS, true, false},
    {"share/reap.c", "busy", "a thread of many detaches", true, false},
    {"share/reap.c", "us_reap_sometimes", "by time", true, false},
    {NULL, NULL, NULL, false, false},
};

/* With a dead A, the two who act are B and C, who have no part in it otherwise. */
static int actor_of(const struct scenario *sc, int which)
{
    return sc->first_is_dead ? which + 1 : which;
}

/* ---- what must hold afterwards ---- */

static const struct schedule *now_playing;
static bool has_room; /* the channel can take whatever is sent in this scenario */

static void complain(const char *finding, void *arg)
{
    (void)arg;
    (void)fprintf(stderr, "explore: %s: %s\n", text_of(now_playing), finding);
}

static struct us_reaped reap(void)
{
    struct us_reaped reaped;

    us_tls = actors[REAPER].tls;
    (void)us_reap(actors[REAPER].arena, &reaped);
    us_tls.id = US_TLS_NOBODY;
    return reaped;
}

/* Somebody died between two stores of the allocator itself. */
static bool died_inside(void)
{
    struct us_arena *a = actors[REAPER].arena;

    for (uint32_t i = 0; i < a->header->thread_high; i++) {
        const struct us_thread *t = us_thread_at(a, i);
        uint64_t op = t->intent >> US_OP_SHIFT;

        if (t->state != 0 && op != US_OP_NONE && op < US_OP_ADOPT &&
            !us_process_alive(a, t->state - 1)) {
            return true;
        }
    }
    return false;
}

static void check_the_living(const struct schedule *s)
{
    for (int who = 0; who < REAPER; who++) {
        for (int i = 0; i < OBJECTS && !actors[who].dead; i++) {
            struct us_object_info info = {0};
            const char *bytes = thing(&actors[REAPER], i);
            uint32_t slot = us_me(actors[who].arena) - 1u;
            bool holds;

            (void)us_object_stat(actors[REAPER].arena, bytes, &info);
            holds = info.shared ? info.holders >> slot & 1
                                : info.owner == slot + 1 && !info.moving;
            EXPECT(s, holds == (held[who][i] > 0),
                   "object %d: %c should hold it %d times, the arena says %d", i,
                   'A' + who, held[who][i], holds);
            EXPECT(s, !holds || bytes[40] == 'x' + i, "object %d was overwritten", i);
        }
    }
}

static void drop_all(struct actor *self)
{
    for (int i = 0; i < OBJECTS; i++) {
        for (int n = held[number_of(self)][i]; n > 0; n--) {
            us_err err = us_kfree(self->arena, thing(self, i), 0);

            EXPECT(now_playing, err == US_OK, "%c cannot drop object %d: %s",
                   'A' + number_of(self), i, us_last_error());
        }
    }
    if (channel_held[number_of(self)]) {
        EXPECT(now_playing,
               us_kfree(self->arena, us_at(self->arena, channel_offset), 0) == US_OK,
               "%c cannot drop the channel: %s", 'A' + number_of(self),
               us_last_error());
    }
}

static void check(const struct schedule *s)
{
    struct us_arena *a = actors[REAPER].arena;
    struct us_object_info info = {0};

    now_playing = s;
    finish(s, 0, actors[REAPER].begun ? REAPER : REAPER - 1);
    if (forking != NULL) {
        die(2); /* its life lock was its parent's still */
    }
    if (reap().waiting != 0) {
        EXPECT(s, died_inside(), "a dead participant cannot be settled");
        inside++;
        return;
    }
    EXPECT(s, !refused, "a send was refused: %s", us_last_error());
    EXPECT(s, !called_damaged, "a sound channel was called damaged");
    EXPECT(s, !called_full || !has_room, "a channel with room was called full");
    EXPECT(s, us_validate(a, NULL, complain, NULL) == 0, "validate()");
    check_the_living(s);
    for (int who = 0; who < REAPER; who++) {
        if (!actors[who].dead) {
            as(who, drop_all);
            die(who);
        }
    }
    EXPECT(s, reap().waiting == 0, "the last ones cannot be settled");
    EXPECT(s, us_validate(a, NULL, complain, NULL) == 0, "validate() at the end");
    for (int i = 0; i <= OBJECTS; i++) {
        uint64_t offset = i < OBJECTS ? things[i] : channel_offset;

        (void)us_object_stat(a, us_at(a, offset), &info);
        EXPECT(s, info.owner == 0 && !info.shared,
               "object %d is lost: owner %d, holders %llx, %u transits", i, info.owner,
               (unsigned long long)info.holders, info.transits);
    }
}

/* ---- all schedules of one scenario ---- */

static bool deep;
static void (*third)(struct actor *); /* what C does where it is not one of the two */

static void begin_again(const struct scenario *sc)
{
    put_back();
    forking = NULL;
    called_damaged = called_full = refused = false;
    has_room = sc->setup != two_messages_wait && sc->setup != one_message_waits;
    memcpy(held, held_kept, sizeof(held));
    for (int i = 0; i < ACTORS; i++) {
        channel_held[i] = i < REAPER;
    }
    for (int i = 0; i < ACTORS; i++) {
        actors[i].work = NULL;
    }
    actors[2].work = third;
    actors[actor_of(sc, 0)].work = sc->work[0];
    actors[actor_of(sc, 1)].work = sc->work[1];
    actors[REAPER].work = does_reap;
    if (sc->first_is_dead) {
        die(0);
    }
}

static void play_and_check(const void *of, const struct schedule *s)
{
    for (int i = 0; i < s->count; i++) {
        if (s->turns[i].actor == REAPER && s->turns[i].steps == DEATH) {
            wanted_count = 0; /* it is needed afterwards; C dies in its place */
            return;
        }
    }
    begin_again(of);
    play(s);
    check(s);
}

static void try_schedule(const struct scenario *sc, struct turn_of *turns, int count)
{
    struct schedule s = {.name = sc->name, .count = count};

    memcpy(s.turns, turns, (size_t)count * sizeof(*turns));
    explore_from(play_and_check, sc, &s, 0);
}

#define TRY(...)                                                                       \
    try_schedule(sc, (struct turn_of[]){__VA_ARGS__},                                  \
                 sizeof((struct turn_of[]){__VA_ARGS__}) / sizeof(struct turn_of))

/* Steps of one actor alone, from the state that the others' turns leave. */
static uint64_t steps_of(const struct scenario *sc, int who, struct turn_of before)
{
    begin_again(sc);
    if (before.steps != 0) {
        turn(before.actor, before.steps == ALL ? PATIENCE : before.steps);
    }
    actors[who].steps = 0;
    turn(who, PATIENCE);
    return actors[who].steps;
}

static void explore(const struct scenario *sc)
{
    for (int first = 0; first < 2; first++) {
        int x = actor_of(sc, first), y = actor_of(sc, 1 - first);
        struct turn_of none = {0, 0};
        uint64_t xs = steps_of(sc, x, none), ys = steps_of(sc, y, none);
        uint64_t rs = 0;

        for (uint64_t k = 0; k <= xs; k++) {
            /* A part of the second actor's steps, another one for each k. */
            uint64_t stride = ys / (deep ? 24 : 3) + 1;

            TRY({x, k}, {y, ALL}, {x, ALL});
            TRY({x, k}, {x, DEATH}, {y, ALL});
            TRY({x, k}, {y, ALL}, {x, DEATH});
            if (sc->third != NULL) {
                third = sc->third;
                TRY({x, k}, {y, ALL}, {2, ALL}, {x, ALL});
                TRY({x, k}, {y, ALL}, {2, ALL}, {x, DEATH});
                TRY({x, k}, {2, ALL}, {y, ALL}, {x, ALL});
                third = NULL;
            }
            for (uint64_t j = k % stride; j <= ys; j += stride) {
                TRY({x, k}, {y, j}, {x, ALL}, {y, ALL});
                TRY({x, k}, {y, j}, {x, DEATH}, {y, ALL});
                TRY({x, k}, {y, j}, {x, DEATH}, {y, DEATH});
                TRY({x, k}, {x, DEATH}, {y, j}, {REAPER, ALL}, {y, ALL});
            }
            begin_again(sc);
            turn(x, k);
            die(x);
            actors[REAPER].steps = 0;
            turn(REAPER, PATIENCE);
            rs = actors[REAPER].steps;
            stride = rs / (deep ? 16 : 3) + 1;
            for (uint64_t j = k % stride; j <= rs; j += stride) {
                TRY({x, k}, {x, DEATH}, {REAPER, j}, {y, ALL}, {REAPER, ALL});
                if (!sc->first_is_dead) { /* C takes up what a dead reaper left */
                    third = does_reap;
                    TRY({x, k}, {x, DEATH}, {2, j}, {2, DEATH}, {y, ALL});
                    third = NULL;
                }
            }
        }
    }
}

static void prepare(const struct scenario *sc)
{
    struct us_arena_config config = {.size = 2 << 20, .cpus = 1, .nodes = 1};
    struct us_ticket ticket;
    void *object;
    us_err err;

    open_actors(ACTORS, &config);
    memset(held, 0, sizeof(held));
    as(0, allocate);
    us_tls = actors[0].tls;
    err = us_channel_create(actors[0].arena, 2, &channels[0]);
    assert(err == US_OK);
    channel_offset = us_offset(actors[0].arena, us_channel_object(channels[0]));
    for (int i = 1; i < REAPER; i++) {
        us_tls = actors[0].tls;
        err = us_send(actors[0].arena, us_channel_object(channels[0]), &ticket);
        us_tls = actors[i].tls;
        assert(err == US_OK && us_receive(actors[i].arena, &ticket, &object) == US_OK);
        err = us_channel_open(actors[i].arena, object, &channels[i]);
        assert(err == US_OK);
    }
    us_tls.id = US_TLS_NOBODY;
    sc->setup();
    memcpy(held_kept, held, sizeof(held));
    copy_arena(&snapshots[0]);
}

static void close_all(void)
{
    for (int i = 0; i < REAPER; i++) {
        free(channels[i]);
    }
    close_actors();
}

static int play_one(const struct scenario *sc, char **words, int count)
{
    struct schedule s = {.name = sc->name};

    read_turns(&s, words, count);
    play_and_check(sc, &s);
    (void)printf("explore: %s: sound\n", text_of(&s));
    return 0;
}

int main(int argc, char **argv)
{
    start(argv);
    wants_deaths = true;
    deep = argc > 1 && strcmp(argv[1], "deep") == 0;
    for (size_t i = 0; i < SCENARIOS; i++) {
        const struct scenario *sc = &scenarios[i];

        if (argc > 1 && !deep && strcmp(argv[1], sc->name) != 0) {
            continue;
        }
        prepare(sc);
        if (argc > 2) {
            return play_one(sc, argv + 2, argc - 2);
        }
        explore(sc);
        close_all();
    }
    (void)printf(
        "explore: %llu schedules, %llu steps; %llu died inside the allocator\n",
        (unsigned long long)schedules, (unsigned long long)points,
        (unsigned long long)inside);
    if (argc == 1 || deep) {
        return sites_missed(files, excused, true, !deep) == 0 ? 0 : 2;
    }
    return schedules == 0;
}
