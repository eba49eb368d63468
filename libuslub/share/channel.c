/* SPDX-License-Identifier: MIT */
/*
 * channel.c - a bounded queue of objects: any number of senders and receivers.
 *
 * Cell n % capacity is free or full for one turn n at a time; both words of it change
 * in one swap, which is the sending or the receiving. Head and tail only say where to
 * look, and whoever finds them behind moves them on: nobody waits for a sender or
 * receiver that was stopped, or died, in between. What a receiver took is his from that
 * swap on, by his intent.
 *
 *   cell, turn n   free ---- send ----> full(object) ---- receive ----> free, turn n +
 * capacity
 */
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "share/share.h"

#define WAITERS  1u
#define SPIN_NS  10000                /* as long as a sleeper takes to wake up */
#define PATIENCE (20LL * 1000 * 1000) /* a wake-up may die with the one who got it */

struct us_channel {
    struct us_arena *arena;
    struct us_channel_block *block;
    uint64_t offset;
    uint32_t capacity;
    uint32_t spin; /* 1: there is another processor to spin for */
};

static uint64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- life ---- */

struct us_channel_block *us_channel_at(struct us_arena *a, uint64_t offset,
                                       uint32_t *capacity)
{
    struct us_channel_block *block;
    struct us_spot spot;
    uint64_t room;

    /* Any object may say that it is a channel; a pair of words off its alignment kills.
     */
    if (us_spot_find(a, offset, &spot) != US_OK || spot.usable < sizeof(*block) ||
        offset % sizeof(struct us_pair) != 0) {
        return NULL;
    }
    block = us_at(a, offset);
    room = (spot.usable - sizeof(*block)) / sizeof(struct us_pair);
    *capacity = us_load_relaxed32(&block->capacity);
    if (us_load_acquire64(&block->magic) != US_CHANNEL_MAGIC || *capacity == 0 ||
        *capacity > room) {
        return NULL;
    }
    return block;
}

/* Enters the channel where recovery looks for them. */
static us_err enlist(struct us_arena *a, uint64_t offset)
{
    us_err err = us_commit(a, a->at.channels, US_CHANNELS * sizeof(uint64_t));

    for (uint32_t i = 0; err == US_OK && i < US_CHANNELS; i++) {
        uint64_t none = 0;

        if (us_cas_acq_rel64(us_channel_entry(a, i), &none, offset)) {
            return US_OK;
        }
    }
    return err != US_OK ? err
                        : us_fail(US_ELIMIT,
                                  "arena '%s': all %u places for channels are taken; "
                                  "drop some",
                                  a->name, US_CHANNELS);
}

static void delist(struct us_arena *a, uint64_t offset)
{
    for (uint32_t i = 0; i < US_CHANNELS; i++) {
        uint64_t found = offset;

        if (us_cas_acq_rel64(us_channel_entry(a, i), &found, 0)) {
            return;
        }
    }
}

static us_channel *handle_new(struct us_arena *a, struct us_channel_block *block,
                              uint32_t capacity)
{
    us_channel *ch = calloc(1, sizeof(*ch));

    if (ch == NULL) {
        us_fail(US_ENOMEM, "no memory for the handle of a channel");
        return NULL;
    }
    ch->arena = a;
    ch->block = block;
    ch->offset = us_offset(a, block);
    ch->capacity = capacity;
    ch->spin = sysconf(_SC_NPROCESSORS_ONLN) > 1;
    return ch;
}

/* Shared from the start, so that recovery knows it for a channel. */
static us_err publish(struct us_arena *a, struct us_thread *t, uint64_t offset)
{
    struct us_holders holders;
    struct us_spot spot;
    bool last;
    us_err err = us_spot_find(a, offset, &spot);

    if (err != US_OK) {
        return err;
    }
    us_mutex_lock(&a->hold_lock);
    us_intent_begin(t, US_OP_SEND, offset);
    err = us_hold_share(a, &spot);
    if (err == US_OK) {
        err = us_hold_send(a, &spot, true, &holders);
    }
    if (err == US_OK) {
        err = us_hold_remove(a, &spot, 0, 1, &last);
    }
    us_intent_end(t);
    (void)pthread_mutex_unlock(&a->hold_lock);
    return err;
}

us_err us_channel_create(us_arena *a, uint32_t capacity, us_channel **ret)
{
    struct us_thread *t = us_thread_self(a);
    uint64_t bytes =
        sizeof(struct us_channel_block) + (uint64_t)capacity * sizeof(struct us_pair);
    struct us_channel_block *block;
    us_err err;

    if (capacity == 0 || capacity > 1u << 24) {
        return us_fail(US_EBADARG,
                       "arena '%s': a channel for %u messages; 1 to %u are possible",
                       a->name, capacity, 1u << 24);
    }
    block = t == NULL ? NULL : us_kmalloc(a, bytes, US_GFP_ZERO, -1, -1);
    if (block == NULL) {
        return us_last_code();
    }
    block->capacity = capacity;
    for (uint32_t i = 0; i < capacity; i++) {
        us_store_relaxed64(&block->cells[i].hi, i);
    }
    us_store_release64(&block->magic, US_CHANNEL_MAGIC);
    *ret = handle_new(a, block, capacity);
    err = *ret == NULL ? US_ENOMEM : publish(a, t, us_offset(a, block));
    if (err == US_OK) {
        err = enlist(a, us_offset(a, block));
    }
    if (err != US_OK) {
        free(*ret);
        (void)us_kfree(a, block, -1); /* says nothing unless it fails itself */
    }
    return err;
}

us_err us_channel_open(us_arena *a, void *object, us_channel **ret)
{
    uint32_t capacity;
    struct us_channel_block *block = us_channel_at(a, us_offset(a, object), &capacity);

    if (block == NULL) {
        return us_fail(US_EFOREIGN,
                       "arena '%s': the object at offset 0x%llx is no channel", a->name,
                       (unsigned long long)us_offset(a, object));
    }
    *ret = handle_new(a, block, capacity);
    return *ret == NULL ? US_ENOMEM : US_OK;
}

us_err us_channel_release(us_channel *ch)
{
    us_err err = us_kfree(ch->arena, ch->block, -1);

    free(ch);
    return err;
}

void *us_channel_object(us_channel *ch)
{
    return ch->block;
}

uint32_t us_channel_capacity(us_channel *ch)
{
    return ch->capacity;
}

uint32_t us_channel_length(us_channel *ch)
{
    uint64_t head = us_load_acquire64(&ch->block->head);
    int64_t length = (int64_t)(us_load_acquire64(&ch->block->tail) - head);

    return length<0 ? 0 /* the tail is behind */
                    : length>(int64_t) ch->capacity
               ? ch->capacity
               : (uint32_t)length;
}

/* ---- waiting ---- */

static long futex_wake(uint32_t *word, int how_many)
{
    return syscall(SYS_futex, word, FUTEX_WAKE, how_many, NULL, NULL, 0);
}

static void wake(uint32_t *word, int how_many)
{
    uint32_t seen = us_fetch_add_acq_rel32(word, 2) + 2;

    /* Nobody sleeps: say so, for those who come next; but one may just have gone to
     * sleep who found the bit set. */
    if ((seen & WAITERS) && futex_wake(word, how_many) == 0 &&
        us_cas_acq_rel32(word, &seen, seen & ~WAITERS)) {
        (void)futex_wake(word, INT32_MAX);
    }
}

/* Sleeps until the word changes from `seen`, for `patience` at most; false: a signal.
 */
static bool sleep_on(uint32_t *word, uint32_t seen, int64_t patience)
{
    struct timespec limit = {.tv_sec = patience / 1000000000,
                             .tv_nsec = patience % 1000000000};

    if (!(seen & WAITERS) && !us_cas_acq_rel32(word, &seen, seen | WAITERS)) {
        return true; /* changed already */
    }
    return syscall(SYS_futex, word, FUTEX_WAIT, seen | WAITERS, &limit, NULL, 0) == 0 ||
           errno != EINTR;
}

/* What a wait is made of: an attempt that says US_ETIMEDOUT while there is nothing. */
struct attempt {
    us_err (*once)(us_channel *, struct us_thread *, void *);
    void *arg;
    uint32_t *word;
};

static us_err timed_out(void)
{
    return US_ETIMEDOUT; /* no text: the caller knows best who waited for what */
}

static us_err spin_for(us_channel *ch, struct us_thread *t, const struct attempt *what)
{
    uint64_t end = ch->spin ? now_ns() + SPIN_NS : 0;
    us_err err = US_ETIMEDOUT;

    while (err == US_ETIMEDOUT && end != 0 && now_ns() < end) {
        uint32_t seen = us_load_relaxed32(what->word);

        for (int i = 0; i < 50 && us_load_relaxed32(what->word) == seen; i++) {
            us_relax();
        }
        err = what->once(ch, t, what->arg);
    }
    return err;
}

static us_err wait_for(us_channel *ch, const struct attempt *what, int64_t timeout)
{
    struct us_thread *t = us_thread_self(ch->arena);
    us_err err = t == NULL ? us_last_code() : what->once(ch, t, what->arg);
    uint64_t end;

    if (err != US_ETIMEDOUT || timeout == 0) {
        return err;
    }
    end = timeout < 0 ? UINT64_MAX : now_ns() + (uint64_t)timeout;
    err = spin_for(ch, t, what);
    while (err == US_ETIMEDOUT) {
        uint32_t seen = us_load_acquire32(what->word);
        uint64_t now = now_ns();

        err = what->once(ch, t, what->arg);
        if (err != US_ETIMEDOUT || now >= end) {
            return err;
        }
        if (!sleep_on(what->word, seen,
                      end - now < (uint64_t)PATIENCE ? (int64_t)(end - now)
                                                     : PATIENCE)) {
            return timed_out();
        }
    }
    return err;
}

/* ---- sending ---- */

static us_err hung_up(const us_channel *ch)
{
    return us_fail(US_EHANGUP, "arena '%s': the channel at offset 0x%llx is closed",
                   ch->arena->name, (unsigned long long)ch->offset);
}

static us_err damaged(const us_channel *ch)
{
    return us_fail(US_ECORRUPT,
                   "arena '%s': the channel at offset 0x%llx contradicts itself; the "
                   "arena is damaged: recreate it",
                   ch->arena->name, (unsigned long long)ch->offset);
}

struct cell_look {
    struct us_pair *cell;
    struct us_pair was;
    uint64_t at; /* the turn that was asked for */
};

static struct cell_look look_at(const us_channel *ch, uint64_t turn)
{
    struct cell_look look = {.cell = &ch->block->cells[turn % ch->capacity],
                             .at = turn};

    look.was.hi = us_load_acquire64(&look.cell->hi);
    look.was.lo = us_load_acquire64(&look.cell->lo);
    return look;
}

#define TURN(turn) ((turn) & US_CELL_TURN_MASK)
#define ROUNDS                                                                         \
    100000 /* others cannot win for ever, unless words are scribbled over              \
            */

/* Puts the message into the next free cell; US_ETIMEDOUT: there is none. */
static us_err put(us_channel *ch, struct us_pair message)
{
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t tail = us_load_acquire64(&ch->block->tail);
        struct cell_look look = look_at(ch, tail);
        uint64_t behind = tail - ch->capacity;

        message.hi = (message.hi & ~US_CELL_TURN_MASK) | TURN(tail);
        if (look.was.hi == TURN(tail)) {
            if (us_cas_pair(look.cell, look.was, message)) {
                (void)us_cas_acq_rel64(&ch->block->tail, &tail, tail + 1);
                return US_OK;
            }
        } else if (TURN(look.was.hi) == TURN(tail) ||
                   look.was.hi == TURN(tail + ch->capacity)) {
            /* Full already, or received again: its sender has not come to say so. */
            (void)us_cas_acq_rel64(&ch->block->tail, &tail, tail + 1);
        } else if ((look.was.hi & US_CELL_FULL) && TURN(look.was.hi) == TURN(behind) &&
                   us_load_acquire64(&ch->block->tail) == tail) {
            return US_ETIMEDOUT;
        }
    }
    return damaged(ch);
}

/* Is the next cell still that of the turn before? */
static bool is_full(const us_channel *ch)
{
    uint64_t tail = us_load_acquire64(&ch->block->tail);
    struct cell_look look = look_at(ch, tail);

    return look.was.hi & US_CELL_FULL &&
           TURN(look.was.hi) == TURN(tail - ch->capacity) &&
           us_load_acquire64(&ch->block->tail) == tail;
}

struct sending {
    struct us_spot spot;
    const struct us_message *message;
};

/* The transit first: a message in a cell always has one. */
static us_err send_once(us_channel *ch, struct us_thread *t, void *arg)
{
    struct sending *s = arg;
    const struct us_message *m = s->message;
    uint64_t nbytes = m->nbytes > US_CELL_NBYTES_MAX ? 0 : m->nbytes;
    struct us_pair cell = {
        .lo = s->spot.offset | (uint64_t)m->format << US_CELL_FORMAT_SHIFT,
        .hi = US_CELL_FULL | nbytes << US_CELL_NBYTES_SHIFT,
    };
    struct us_arena *a = ch->arena;
    struct us_holders holders;
    bool last;
    us_err err;

    if (us_load_acquire32(&ch->block->closed)) {
        return hung_up(ch);
    }
    if (is_full(ch)) {
        return US_ETIMEDOUT; /* before anything is changed for nothing */
    }
    us_mutex_lock(&a->hold_lock);
    us_intent_begin(t, US_OP_SEND, s->spot.offset);
    err = us_hold_share(a, &s->spot);
    if (err == US_OK) {
        err = us_hold_send(a, &s->spot, false, &holders);
    }
    if (err == US_OK) {
        err = put(ch, cell);
        if (err != US_OK) { /* we hold it, so it is not the last */
            (void)us_hold_remove(a, &s->spot, 0, 1, &last);
        }
    }
    us_intent_end(t);
    (void)pthread_mutex_unlock(&a->hold_lock);
    if (err == US_OK) {
        wake(&ch->block->readable, 1);
    }
    return err;
}

us_err us_channel_send(us_channel *ch, const struct us_message *m, int64_t timeout)
{
    struct sending s = {.message = m};
    struct attempt what = {send_once, &s, &ch->block->writable};
    us_err err = us_spot_find(ch->arena, us_offset(ch->arena, m->object), &s.spot);

    if (err == US_OK && m->format > US_CHANNEL_FORMATS) {
        err =
            us_fail(US_EBADARG, "format %u is none of us_channel_format()", m->format);
    }
    return err == US_OK ? wait_for(ch, &what, timeout) : err;
}

/* ---- receiving ---- */

/* Takes the oldest message; US_ETIMEDOUT: there is none. The intent names its object.
 */
static us_err take(us_channel *ch, struct us_thread *t, struct us_pair *ret)
{
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t head = us_load_acquire64(&ch->block->head);
        struct cell_look look = look_at(ch, head);
        struct us_pair next = {.lo = 0, .hi = TURN(head + ch->capacity)};

        if (TURN(look.was.hi) != TURN(head)) {
            /* Received already: its receiver has not come to say so. */
            (void)us_cas_acq_rel64(&ch->block->head, &head, head + 1);
        } else if (look.was.hi & US_CELL_FULL) {
            us_intent_begin(t, US_OP_TAKE, look.was.lo & US_OFFSET_MASK);
            if (us_cas_pair(look.cell, look.was, next)) {
                (void)us_cas_acq_rel64(&ch->block->head, &head, head + 1);
                *ret = look.was;
                return US_OK;
            }
        } else if (us_load_acquire64(&ch->block->head) == head) {
            return US_ETIMEDOUT;
        }
    }
    return damaged(ch);
}

static us_err receive_once(us_channel *ch, struct us_thread *t, void *arg)
{
    bool closed = us_load_acquire32(&ch->block->closed); /* before we look */
    struct us_message *m = arg;
    struct us_arena *a = ch->arena;
    struct us_spot spot;
    struct us_pair cell;
    us_err err;

    us_mutex_lock(&a->hold_lock);
    err = us_hold_prepare(a);
    if (err == US_OK) {
        err = take(ch, t, &cell);
    }
    if (err == US_OK) {
        err = us_spot_find(a, cell.lo & US_OFFSET_MASK, &spot);
        if (err == US_OK) {
            err = us_hold_take(a, &spot);
        }
    }
    us_intent_end(t);
    (void)pthread_mutex_unlock(&a->hold_lock);
    if (err != US_OK) {
        return err == US_ETIMEDOUT && closed ? hung_up(ch) : err;
    }
    m->object = us_at(a, spot.offset);
    m->format = (uint32_t)(cell.lo >> US_CELL_FORMAT_SHIFT) & 0xffu;
    m->nbytes = cell.hi >> US_CELL_NBYTES_SHIFT;
    if (m->nbytes == 0 || m->nbytes > spot.usable) {
        m->nbytes = us_spot_bytes(a, &spot);
    }
    wake(&ch->block->writable, 1);
    return US_OK;
}

us_err us_channel_receive(us_channel *ch, struct us_message *ret, int64_t timeout)
{
    struct attempt what = {receive_once, ret, &ch->block->readable};

    return wait_for(ch, &what, timeout);
}

static us_err something_there(us_channel *ch, struct us_thread *t, void *arg)
{
    uint64_t head = us_load_acquire64(&ch->block->head);
    uint64_t hi = look_at(ch, head).was.hi;

    (void)t, (void)arg;
    return hi != TURN(head) || us_load_acquire32(&ch->block->closed) ? US_OK
                                                                     : US_ETIMEDOUT;
}

us_err us_channel_wait(us_channel *ch, int64_t timeout)
{
    struct attempt what = {something_there, NULL, &ch->block->readable};
    us_err err = wait_for(ch, &what, timeout);

    /* The wake-up may have been meant for somebody who would take the message. */
    if (err == US_OK && (us_load_acquire32(&ch->block->readable) & WAITERS)) {
        (void)futex_wake(&ch->block->readable, 1);
    }
    return err;
}

/* ---- the end ---- */

void us_channel_close(us_channel *ch)
{
    us_store_release32(&ch->block->closed, 1);
    wake(&ch->block->readable, INT32_MAX);
    wake(&ch->block->writable, INT32_MAX);
}

bool us_channel_closed(us_channel *ch)
{
    return us_load_acquire32(&ch->block->closed);
}

/* Channels in channels: `depth` more. No honest arena has more than US_CHANNELS. */
static void drain(struct us_arena *a, struct us_thread *t, uint64_t offset,
                  uint32_t depth)
{
    struct us_channel ch = {.arena = a, .offset = offset};
    uint32_t messages;
    struct us_pair cell;

    ch.block = us_channel_at(a, offset, &ch.capacity);
    messages = ch.block == NULL ? 0 : ch.capacity;
    while (messages-- != 0 && take(&ch, t, &cell) == US_OK) {
        uint64_t object = cell.lo & US_OFFSET_MASK;
        struct us_spot spot;
        bool last = false;

        if (us_spot_find(a, object, &spot) == US_OK) {
            us_mutex_lock(&a->hold_lock);
            (void)us_hold_remove(a, &spot, 0, 1, &last);
            (void)pthread_mutex_unlock(&a->hold_lock);
        }
        if (last && depth != 0 && us_holders_read(us_spot_pair(a, &spot)).channel) {
            drain(a, t, object, depth - 1);
        }
        if (last) {
            (void)us_kfree(a, us_at(a, object), -1);
        }
    }
    us_intent_end(t);
    delist(a, offset);
}

/* The channel is ours alone: nobody else will receive what is in it. */
void us_channel_drain(struct us_arena *a, struct us_thread *t, uint64_t offset)
{
    drain(a, t, offset, US_CHANNELS);
}

/* ---- formats ---- */

us_err us_channel_format(us_channel *ch, const void *text, uint32_t length,
                         uint32_t *ret)
{
    if (length == 0 || length > US_FORMAT_MAX) {
        return us_fail(US_EBADARG, "a format of %u bytes; 1 to %d are possible", length,
                       US_FORMAT_MAX);
    }
    for (uint32_t i = 0; i < US_CHANNEL_FORMATS; i++) {
        struct us_format *f = &ch->block->formats[i];
        uint32_t state = 0;

        if (us_load_acquire32(&f->state) == 0 &&
            us_cas_acq_rel32(&f->state, &state, 1)) {
            f->length = length;
            memcpy(f->text, text, length);
            us_store_release32(&f->state, 2);
        }
        if (us_load_acquire32(&f->state) == 2 && f->length == length &&
            memcmp(f->text, text, length) == 0) {
            *ret = i + 1;
            return US_OK;
        }
    }
    return us_fail(US_ELIMIT,
                   "arena '%s': the channel knows %d formats already, which is the "
                   "limit: arrays of so many shapes go through arena.dumps()",
                   ch->arena->name, US_CHANNEL_FORMATS);
}

uint32_t us_channel_format_text(us_channel *ch, uint32_t format, char ret[120])
{
    const struct us_format *f;
    uint32_t length;

    if (format == 0 || format > US_CHANNEL_FORMATS) {
        return 0;
    }
    f = &ch->block->formats[format - 1];
    if (us_load_acquire32(&f->state) != 2) {
        return 0;
    }
    length = us_load_relaxed32(&f->length);
    length = length <= US_FORMAT_MAX ? length : 0;
    memcpy(ret, f->text, length);
    return length;
}
