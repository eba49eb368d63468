/* SPDX-License-Identifier: MIT */
/*
 * sharing_explore_ops.h - what actors do in sharing_explore.c, alone and in pairs.
 */
#ifndef US_EXPLORE_SHARING_EXPLORE_OPS_H
#define US_EXPLORE_SHARING_EXPLORE_OPS_H

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

/* All that a channel can do without a message, or a wait. */
static void makes_channel(struct actor *self)
{
    us_channel *channel;
    uint32_t format;
    char text[US_FORMAT_MAX];

    if (us_channel_create(self->arena, 2, &channel) != US_OK) {
        refused = true;
        return;
    }
    refused = refused || us_channel_format(channel, "text", 4, &format) != US_OK ||
              us_channel_format_text(channel, format, text) != 4 ||
              us_channel_length(channel) != 0 ||
              us_channel_wait(channel, 0) != US_ETIMEDOUT;
    us_channel_close(channel);
    refused =
        refused || !us_channel_closed(channel) || us_channel_release(channel) != US_OK;
}

/* Of the channel that all have. */
static void names_a_format(struct actor *self)
{
    uint32_t format;

    refused = refused ||
              us_channel_format(channels[number_of(self)], "text", 4, &format) != US_OK;
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
    {"unshare-join", a_ticket_is_spent, {does_move, does_receive}, false, NULL},
    {"channel-make-make", nothing, {makes_channel, makes_channel}, false, NULL},
    {"channel-make-receive",
     a_message_waits,
     {makes_channel, receives_from_channel},
     false,
     NULL},
    {"channel-formats", nothing, {names_a_format, names_a_format}, false, NULL},
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

#endif
