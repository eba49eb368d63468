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
#include "explore/explore.h"

#define REAPER  3
#define OBJECTS 2

static uint64_t things[OBJECTS]; /* offsets */
static struct us_ticket tickets[OBJECTS];
static us_channel *channels[ACTORS];
static uint64_t channel_offset;
static int held[ACTORS][OBJECTS], held_kept[ACTORS][OBJECTS];
static bool channel_held[ACTORS];
static uint64_t inside;

/* ---- what actors do ---- */

static int number_of(const struct actor *self)
{
    return (int)(self - actors);
}

static void *thing(const struct actor *self, int i)
{
    return us_at(self->arena, things[i]);
}

static void note(struct actor *self, const void *object, int change)
{
    for (int i = 0; i < OBJECTS; i++) {
        if (us_offset(self->arena, object) == things[i]) {
            held[number_of(self)][i] += change;
        }
    }
}

static bool refused;

static void does_send(struct actor *self)
{
    struct us_ticket ticket;

    (void)us_send(self->arena, thing(self, 0), &ticket);
}

static void does_receive(struct actor *self)
{
    void *object;

    if (us_receive(self->arena, &tickets[0], &object) == US_OK) {
        note(self, object, 1);
    }
}

/* Each shares an object of its own, the first ones of their page of holders. */
static void must_send(struct actor *self)
{
    struct us_ticket ticket;

    refused = refused || us_send(self->arena, thing(self, number_of(self)), &ticket);
}

static void does_drop(struct actor *self)
{
    void *object = thing(self, 0);

    note(self, object, -1);
    if (us_kfree(self->arena, object, 0) != US_OK) {
        note(self, object, 1);
    }
}

static bool called_damaged, called_full;

/* A sound channel is never called damaged. */
static void watch(us_err err)
{
    called_damaged = called_damaged || err == US_ECORRUPT;
}

static void send_message(struct actor *self, int i)
{
    struct us_message m = {.object = thing(self, i), .nbytes = 64};
    us_err err = us_channel_send(channels[number_of(self)], &m, 0);

    watch(err);
    called_full = called_full || err == US_ETIMEDOUT;
}

static void sends_through_channel(struct actor *self)
{
    send_message(self, 0);
}

static void sends_another_through_channel(struct actor *self)
{
    send_message(self, 1);
}

static void receives_from_channel(struct actor *self)
{
    struct us_message m;
    us_err err = us_channel_receive(channels[number_of(self)], &m, 0);

    watch(err);
    if (err == US_OK) {
        note(self, m.object, 1);
    }
}

static void receives_twice_from_channel(struct actor *self)
{
    receives_from_channel(self);
    receives_from_channel(self);
}

static void releases_channel(struct actor *self)
{
    channel_held[number_of(self)] = false;
    (void)us_kfree(self->arena, us_at(self->arena, channel_offset), 0);
}

static void does_reap(struct actor *self)
{
    struct us_reaped reaped;

    (void)us_reap(self->arena, &reaped);
}

/* As fork() does; C stands for the child, which is there if its parent comes so far. */
static struct actor *forking;

static void does_fork(struct actor *self)
{
    int mine[OBJECTS];

    forking = self;
    memcpy(mine, held[number_of(self)], sizeof(mine));
    if (us_share_all(self->arena, us_me(actors[2].arena) - 1u) == US_OK) {
        for (int i = 0; i < OBJECTS; i++) {
            held[2][i] += mine[i] != 0;
        }
        channel_held[2] = channel_held[2] || channel_held[number_of(self)];
    }
    forking = NULL;
}

static void does_move(struct actor *self)
{
    void *object = thing(self, 0);

    if (us_move(self->arena, object) == US_OK) {
        note(self, object, -1);
    }
}

static void does_adopt(struct actor *self)
{
    uint16_t from = us_me(actors[0].arena);

    if (us_adopt(self->arena, things[0], from) == US_OK) {
        note(self, thing(self, 0), 1);
    }
}

/* ---- how it begins ---- */

static void allocate(struct actor *self)
{
    for (int i = 0; i < OBJECTS; i++) {
        char *object = us_kmalloc(self->arena, 64, 0, 0, -1);

        assert(object != NULL);
        memset(object, 'x' + i, 64);
        things[i] = us_offset(self->arena, object);
        held[number_of(self)][i] = 1;
    }
}

static void hands_over_the_other(struct actor *self)
{
    us_err err = us_move(self->arena, thing(self, 1));

    assert(err == US_OK);
    held[0][1] = 0;
}

static void adopts_the_other(struct actor *self)
{
    us_err err = us_adopt(self->arena, things[1], us_me(actors[0].arena));

    assert(err == US_OK);
    held[1][1] = 1;
}

/* A sends both, B receives both. */
static void both_hold(void)
{
    struct us_ticket sent[OBJECTS];

    for (int i = 0; i < OBJECTS; i++) {
        void *object;
        us_err err;

        us_tls = actors[0].tls;
        err = us_send(actors[0].arena, thing(&actors[0], i), &sent[i]);
        us_tls = actors[1].tls;
        assert(err == US_OK);
        err = us_receive(actors[1].arena, &sent[i], &object);
        assert(err == US_OK);
        held[1][i] = 1;
    }
    us_tls.id = US_TLS_NOBODY;
}

static void each_has_one(void)
{
    as(0, hands_over_the_other);
    as(1, adopts_the_other);
}

static void a_ticket_travels(void)
{
    us_err err;

    us_tls = actors[0].tls;
    err = us_send(actors[0].arena, thing(&actors[0], 0), &tickets[0]);
    us_tls.id = US_TLS_NOBODY;
    assert(err == US_OK);
}

/* A has sent and let go: only the ticket holds the object. */
static void only_a_ticket_is_left(void)
{
    a_ticket_travels();
    as(0, does_drop);
}

/* A holds the object, and a ticket of it has been received before. */
static void a_ticket_is_spent(void)
{
    a_ticket_travels();
    as(0, does_receive);
    as(0, does_drop);
}

static void a_message_waits(void)
{
    as(0, sends_through_channel);
    as(0, does_drop);
}

/* Room for one of two who send. */
static void one_message_waits(void)
{
    both_hold();
    as(0, sends_through_channel);
}

static void two_messages_wait(void)
{
    both_hold();
    as(0, sends_through_channel);
    as(1, sends_another_through_channel);
}

/* C has the second object, and the channel has room for one more. */
static void c_holds_the_other(void)
{
    struct us_ticket ticket;
    void *object;
    us_err err;

    us_tls = actors[0].tls;
    err = us_send(actors[0].arena, thing(&actors[0], 1), &ticket);
    us_tls = actors[2].tls;
    assert(err == US_OK);
    err = us_receive(actors[2].arena, &ticket, &object);
    assert(err == US_OK);
    us_tls.id = US_TLS_NOBODY;
    held[2][1] = 1;
}

static void a_dead_one_held_it(void)
{
    both_hold();
    a_ticket_travels();
    as(0, sends_through_channel);
}

static void nothing(void)
{
}

struct scenario {
    const char *name;
    void (*setup)(void);
    void (*work[2])(struct actor *);
    bool first_is_dead;            /* A is dead from the start: who reaps? */
    void (*third)(struct actor *); /* what C does, in between */
};

static const struct scenario scenarios[] = {
    {"first-send-send", each_has_one, {must_send, must_send}, false, NULL},
    {"send-send", both_hold, {does_send, does_send}, false, NULL},
    {"send-drop", both_hold, {does_send, does_drop}, false, NULL},
    {"drop-drop", both_hold, {does_drop, does_drop}, false, NULL},
    {"receive-receive",
     only_a_ticket_is_left,
     {does_receive, does_receive},
     false,
     NULL},
    {"drop-join", a_ticket_is_spent, {does_drop, does_receive}, false, NULL},
    {"drop-receive", a_ticket_travels, {does_drop, does_receive}, false, NULL},
    {"channel-send-receive",
     nothing,
     {sends_through_channel, receives_from_channel},
     false,
     NULL},
    {"channel-send-send",
     both_hold,
     {sends_through_channel, sends_another_through_channel},
     false,
     NULL},
    {"channel-receive-receive",
     a_message_waits,
     {receives_from_channel, receives_from_channel},
     false,
     NULL},
    {"channel-receive-two",
     two_messages_wait,
     {receives_from_channel, receives_twice_from_channel},
     false,
     NULL},
    {"channel-receive-drop",
     two_messages_wait,
     {receives_from_channel, does_drop},
     false,
     NULL},
    {"channel-full",
     two_messages_wait,
     {receives_from_channel, sends_through_channel},
     false,
     NULL},
    {"channel-release-receive",
     a_message_waits,
     {releases_channel, receives_from_channel},
     false,
     NULL},
    {"channel-release-release",
     two_messages_wait,
     {releases_channel, releases_channel},
     false,
     NULL},
    {"fork-drop", both_hold, {does_fork, does_drop}, false, NULL},
    {"fork-receive", only_a_ticket_is_left, {does_fork, does_receive}, false, NULL},
    {"move-adopt", nothing, {does_move, does_adopt}, false, NULL},
    {"channel-last-room",
     one_message_waits,
     {sends_another_through_channel, sends_through_channel},
     false,
     NULL},
    {"channel-three",
     c_holds_the_other,
     {sends_through_channel, receives_from_channel},
     false,
     sends_another_through_channel},
    {"reap-receive", a_dead_one_held_it, {does_reap, does_receive}, true, NULL},
    {"reap-drop", a_dead_one_held_it, {does_reap, does_drop}, true, NULL},
    {"reap-reap", a_dead_one_held_it, {does_reap, does_reap}, true, NULL},
    {"reap-channel",
     a_dead_one_held_it,
     {does_reap, receives_from_channel},
     true,
     NULL},
};
#define SCENARIOS (sizeof(scenarios) / sizeof(scenarios[0]))

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
    finish(s, 0, REAPER - 1);
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

static void try_schedule(const struct scenario *sc, struct turn_of *turns, int count)
{
    struct schedule s = {.name = sc->name, .count = count};

    memcpy(s.turns, turns, (size_t)count * sizeof(*turns));
    begin_again(sc);
    play(&s);
    check(&s);
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
    struct us_ticket ticket;
    void *object;
    us_err err;

    open_actors(ACTORS);
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
    copy_arena();
}

static void close_actors(void)
{
    for (int i = 0; i < ACTORS; i++) {
        free(actors[i].stack);
        if (i > 0 && i < REAPER) {
            free(channels[i]);
        }
        (void)close(actors[i].fd);
        if (i > 0) {
            us_arena_handle_drop(actors[i].arena);
        }
    }
    free(channels[0]);
    free(copied);
    free(copy);
    memset(actors, 0, sizeof(actors));
}

static int play_one(const struct scenario *sc, char **words, int count)
{
    struct schedule s = {.name = sc->name};

    for (int i = 0; i < count && i < TURNS_MAX; i++) {
        struct turn_of *t = &s.turns[s.count++];

        t->actor = words[i][0] - 'A';
        assert(t->actor >= 0 && t->actor < ACTORS);
        t->steps = words[i][1] == '!'   ? DEATH
                   : words[i][1] == ':' ? strtoull(words[i] + 2, NULL, 10)
                                        : ALL;
    }
    begin_again(sc);
    play(&s);
    check(&s);
    (void)printf("explore: %s: sound\n", text_of(&s));
    return 0;
}

int main(int argc, char **argv)
{
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
        close_actors();
    }
    (void)printf(
        "explore: %llu schedules, %llu steps; %llu died inside the allocator\n",
        (unsigned long long)schedules, (unsigned long long)points,
        (unsigned long long)inside);
    return schedules == 0;
}
