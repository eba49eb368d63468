/* SPDX-License-Identifier: MIT */
/*
 * sharing_killer.c - hand-over, sharing, channels; coming, going, and the reaper, who
 * may die himself in the middle of what somebody else has left.
 */
#include <fcntl.h>
#include <unistd.h>

#include "killer.h"

/* ---- hand-over ---- */

static void act_move(struct scene *s)
{
    op_done(s, us_move(s->arena, held_at(s, s->who, 0)));
}

static void take_subject(struct scene *s)
{
    take_many(s, 0, 2);
    (void)subject(s, 0);
}

static void world_moves(struct scene *s)
{
    void *object;

    take_many(s, 0, 2);
    object = subject(s, 0);
    EXPECT(s, us_move(s->arena, object) == US_OK, "move: %s", us_last_error());
    s->board->offset = us_offset(s->arena, object);
    s->board->tag = us_owner(s->arena);
}

static void act_adopt(struct scene *s)
{
    op_done(s, us_adopt(s->arena, s->board->offset, s->board->tag));
}

/* Ours still, or the victim's, who is dead. */
static void world_adopts(struct scene *s)
{
    if (us_adopt(s->arena, s->board->offset, s->board->tag) != US_OK) {
        forget(s, WORLD, 0);
    }
}

/* ---- sharing ---- */

static void act_send(struct scene *s)
{
    op_done(s, us_send(s->arena, held_at(s, s->who, 0), &s->board->ticket[1]));
}

static void world_sends(struct scene *s)
{
    take_many(s, 0, 2);
    EXPECT(s, us_send(s->arena, subject(s, 0), &s->board->ticket[0]) == US_OK,
           "send: %s", us_last_error());
}

static void act_receive(struct scene *s)
{
    void *object;

    op_done(s, us_receive(s->arena, &s->board->ticket[0], &object));
}

static void victim_receives(struct scene *s)
{
    act_receive(s);
    EXPECT(s, s->board->err[s->who] == US_OK, "receive: %s", us_last_error());
    op_done(s, (us_err)-1);
}

/* In an outbox still, or received by somebody who is dead. */
static void world_receives(struct scene *s)
{
    void *object = held_at(s, WORLD, 0);

    EXPECT(s, us_receive(s->arena, &s->board->ticket[0], &object) == US_OK,
           "receive: %s", us_last_error());
    EXPECT(s, us_kfree(s->arena, object, 0) == US_OK, "drop: %s", us_last_error());
}

static void world_drops(struct scene *s)
{
    EXPECT(s, us_kfree(s->arena, held_at(s, WORLD, 0), 0) == US_OK, "drop: %s",
           us_last_error());
    forget(s, WORLD, 0);
}

/* The world lets go of it before the victim does. */
static void victim_receives_all(struct scene *s)
{
    victim_receives(s);
    (void)take(s, 0);
}

static void act_drop(struct scene *s)
{
    op_done(s,
            us_free_on(s->cache, us_pointer(s->arena, s->board->ticket[0].offset), 0));
}

/* ---- channels ---- */

static void act_channel_create(struct scene *s)
{
    op_done(s, us_channel_create(s->arena, 4, &s->channel));
}

static void world_channel(struct scene *s)
{
    us_err err = us_channel_create(s->arena, 4, &s->channel);

    EXPECT(s, err == US_OK, "channel: %s", us_last_error());
    EXPECT(s,
           us_send(s->arena, us_channel_object(s->channel), &s->board->ticket[0]) ==
               US_OK,
           "send: %s", us_last_error());
}

static us_err open_channel(struct scene *s)
{
    void *object = us_pointer(s->arena, s->board->ticket[0].offset);

    return us_channel_open(s->arena, object, &s->channel);
}

static void victim_opens(struct scene *s)
{
    victim_receives(s);
    EXPECT(s, open_channel(s) == US_OK, "open: %s", us_last_error());
    take_many(s, 0, 2);
    (void)subject(s, 0);
}

static void act_channel_open(struct scene *s)
{
    op_done(s, open_channel(s));
}

static us_err channel_send(struct scene *s, uint32_t index)
{
    struct us_message message = {
        .object = held_at(s, s->who, index),
        .nbytes = OBJECT_SIZE,
    };

    return us_channel_send(s->channel, &message, 0);
}

static void act_channel_send(struct scene *s)
{
    op_done(s, channel_send(s, 0));
}

static void world_channel_full(struct scene *s)
{
    world_channel(s);
    take_many(s, 0, 2);
    (void)subject(s, 0);
    EXPECT(s, channel_send(s, 0) == US_OK, "send: %s", us_last_error());
}

static void act_channel_receive(struct scene *s)
{
    struct us_message message;

    op_done(s, us_channel_receive(s->channel, &message, 0));
}

/* What is in it is whole; then nobody needs it any more. */
static void world_empties(struct scene *s)
{
    struct us_message message;
    us_err err;

    while ((err = us_channel_receive(s->channel, &message, 0)) == US_OK) {
        uint8_t fill = *(uint8_t *)message.object;

        EXPECT(s, message.nbytes == OBJECT_SIZE, "a message of %llu bytes",
               (unsigned long long)message.nbytes);
        EXPECT(s, fill != 0 && intact(s, message.object, OBJECT_SIZE, fill),
               "a message is damaged");
        EXPECT(s, us_kfree(s->arena, message.object, 0) == US_OK, "drop: %s",
               us_last_error());
    }
    EXPECT(s, err == US_ETIMEDOUT || err == US_EHANGUP, "receive: %s", us_last_error());
    EXPECT(s, us_channel_release(s->channel) == US_OK, "release: %s", us_last_error());
}

static void world_empties_and_drops(struct scene *s)
{
    world_empties(s);
    world_drops(s);
}

/* The ticket may be in the outbox still. */
static void act_channel_close(struct scene *s)
{
    us_channel_close(s->channel);
    op_done(s, US_OK);
}

static void act_channel_format(struct scene *s)
{
    uint32_t format;

    op_done(s, us_channel_format(s->channel, "picture", 7, &format));
}

static void act_channel_release(struct scene *s)
{
    op_done(s, us_channel_release(s->channel));
}

/* A message that only the channel holds, in a channel that only the victim holds. */
static void own_channel(struct scene *s)
{
    EXPECT(s, us_channel_create(s->arena, 4, &s->channel) == US_OK, "channel: %s",
           us_last_error());
    take_many(s, 0, 2);
    EXPECT(s, channel_send(s, 0) == US_OK, "send: %s", us_last_error());
    give(s, 0, 0);
}

/* ---- participants ---- */

/* The fork handlers know nothing of an arena that came later. */
static int descriptor(struct scene *s)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getppid(), s->board->fd);
    return open(path, O_RDWR | O_CLOEXEC);
}

static void open_descriptor(struct scene *s)
{
    int fd = descriptor(s);

    EXPECT(s, fd >= 0, "no descriptor of the arena");
    s->board->fd = fd;
}

static void act_attach(struct scene *s)
{
    op_done(s, us_arena_attach_fd(s->board->fd, &s->arena));
}

static void attach(struct scene *s)
{
    open_descriptor(s);
    EXPECT(s, us_arena_attach_fd(s->board->fd, &s->arena) == US_OK, "attach: %s",
           us_last_error());
    EXPECT(s, scene_cache(s) == US_OK, "cache: %s", us_last_error());
    take_many(s, 0, 5);
}

static void act_detach(struct scene *s)
{
    us_arena_detach(s->arena);
    op_done(s, US_OK);
}

static void act_reap(struct scene *s)
{
    struct us_reaped reaped;

    op_done(s, us_reap(s->arena, &reaped));
}

#define HARDENED         (US_FREELIST_HARDENED | US_FREELIST_RANDOM)
#define CHANNEL_OF_WORLD .others = world_channel, .then = victim_opens
#define REAP             .first = op_warm, .act = act_reap, .names = true

const struct operation sharing_operations[] = {
    {"move", .then = take_subject, .act = act_move},
    {"adopt", .first = op_take_one, .others = world_moves, .act = act_adopt,
     .after = world_adopts},
    {"send", .then = take_subject, .act = act_send},
    {"receive", .first = op_take_one, .others = world_sends, .act = act_receive,
     .after = world_receives},
    {"drop", .others = world_sends, .then = victim_receives_all, .act = act_drop,
     .after = world_drops},
    {"drop_last", .others = world_sends, .then = victim_receives_all, .act = act_drop,
     .before = world_drops},
    {"channel_create", .then = op_take_one, .act = act_channel_create, .names = true},
    {"channel_open", .others = world_channel, .then = victim_receives,
     .act = act_channel_open, .after = world_empties},
    {"channel_send", CHANNEL_OF_WORLD, .act = act_channel_send, .after = world_empties},
    {"channel_receive", .others = world_channel_full, .then = victim_opens,
     .act = act_channel_receive, .after = world_empties_and_drops},
    {"channel_close", CHANNEL_OF_WORLD, .act = act_channel_close,
     .after = world_empties},
    {"channel_format", CHANNEL_OF_WORLD, .act = act_channel_format,
     .after = world_empties},
    {"channel_release", CHANNEL_OF_WORLD, .act = act_channel_release,
     .after = world_empties},
    {"channel_last", .then = own_channel, .act = act_channel_release},
    {"attach", .then = open_descriptor, .act = act_attach, .early = true},
    {"detach", .then = attach, .act = act_detach, .early = true},
    {"reap_rest", REAP, .casualty = "shrink", .permille = 0, .slow = true},
    {"reap_alloc", REAP, .casualty = "alloc_list", .permille = 500, .slow = true},
    {"reap_new", REAP, .casualty = "alloc_new", .permille = 600},
    {"reap_drain", REAP, .casualty = "free_drain", .permille = 600, .slow = true},
    {"reap_pages", REAP, .casualty = "kfree_large", .permille = 500, .slow = true},
    {"reap_shrink", REAP, .casualty = "shrink", .permille = 700, .slow = true},
    {"reap_create", REAP, .casualty = "create", .permille = 500,
     .after = op_destroy_names},
    {"reap_send", REAP, .casualty = "send", .permille = 600},
};
const size_t sharing_operation_count =
    sizeof(sharing_operations) / sizeof(sharing_operations[0]);
