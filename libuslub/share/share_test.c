/* SPDX-License-Identifier: MIT */
/*
 * share_test.c - tickets, forks, channels and the estates of the dead: whoever holds an
 * object, it is freed once, with the last of them.
 */
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "share/share.h"

static us_arena *arena;
static us_cache *cache;

static void open_arena(void)
{
    struct us_arena_config config = {.size = 16 << 20, .cpus = 2, .nodes = 1};
    struct us_cache_config shape = US_CACHE_CONFIG_INIT;
    us_err err = us_arena_create(NULL, &config, &arena);

    assert(err == US_OK);
    shape.object_size = 64;
    err = us_cache_create(arena, "thing", &shape, &cache);
    assert(err == US_OK);
}

static void complain(const char *finding, void *arg)
{
    (void)arg;
    (void)fprintf(stderr, "share: %s\n", finding);
}

/* Nothing is left, and the cache can go. */
static void close_arena(void)
{
    struct us_reaped reaped;

    assert(us_reap(arena, &reaped) == US_OK && reaped.waiting == 0);
    assert(us_validate(arena, NULL, complain, NULL) == 0);
    if (us_cache_destroy(arena, "thing") != US_OK) {
        (void)fprintf(stderr, "share: %s\n", us_last_error());
        abort();
    }
    us_arena_detach(arena);
}

static struct us_object_info look(const void *object)
{
    struct us_object_info info = {0};

    (void)us_object_stat(arena, object, &info);
    return info;
}

/* Runs `work` in a child that ends without a word; its status. */
static int in_child(int (*work)(void *), void *arg)
{
    int status = -1;
    pid_t child = fork();

    if (child == 0) {
        _exit(work(arg));
    }
    (void)waitpid(child, &status, 0);
    return status;
}

static void kill_and_wait(pid_t child)
{
    (void)kill(child, SIGKILL);
    (void)waitpid(child, NULL, 0);
}

/* ---- tickets ---- */

static void a_ticket_is_a_reference_and_the_last_drop_frees(void)
{
    struct us_ticket ticket;
    void *object, *same;

    open_arena();
    object = us_alloc(cache);
    assert(us_send(arena, object, &ticket) == US_OK);
    assert(look(object).shared && look(object).transits == 1);
    assert(us_free(cache, object) == US_OK); /* the ticket holds it still */
    assert(look(object).holders == 0 && look(object).transits == 1);
    assert(us_free(cache, object) == US_ENOTOWNER);
    assert(us_receive(arena, &ticket, &same) == US_OK && same == object);
    assert(look(object).holders == 1 && look(object).transits == 0);
    assert(us_receive(arena, &ticket, &same) == US_OK); /* again: a reference more */
    assert(us_free(cache, object) == US_OK && look(object).shared);
    assert(us_free(cache, object) == US_OK && !look(object).shared);
    assert(us_free(cache, object) == US_EDOUBLEFREE);
    assert(us_receive(arena, &ticket, &same) == US_ESTALE);
    close_arena();
}

static void tickets_of_earlier_objects_are_stale(void)
{
    struct us_ticket old, wild;
    void *object, *same;

    open_arena();
    object = us_alloc_on(cache, 0, 0, -1);
    assert(us_send(arena, object, &old) == US_OK);
    assert(us_receive(arena, &old, &same) == US_OK);
    assert(us_free_on(cache, object, 0) == US_OK);
    assert(us_free_on(cache, object, 0) == US_OK);
    assert(us_alloc_on(cache, 0, 0, -1) == object);      /* the same place again */
    assert(us_receive(arena, &old, &same) == US_ESTALE); /* not even shared */
    assert(us_send(arena, object, &wild) == US_OK);
    assert(us_receive(arena, &old, &same) == US_ESTALE);
    old = wild;
    wild.record = UINT32_MAX;
    wild.incarnation ^= 1;
    assert(us_receive(arena, &wild, &same) == US_ESTALE);
    wild.offset += 8;
    assert(us_receive(arena, &wild, &same) == US_ESTALE);
    wild.offset = UINT64_MAX;
    assert(us_receive(arena, &wild, &same) == US_ESTALE);
    assert(us_receive(arena, &old, &same) == US_OK);
    assert(us_free(cache, object) == US_OK && us_free(cache, object) == US_OK);
    close_arena();
}

static int receive_and_leave(void *ticket)
{
    void *object;

    return us_receive(arena, ticket, &object) != US_OK;
}

static void a_receiver_that_dies_holds_nothing(void)
{
    struct us_ticket ticket;
    struct us_reaped reaped;
    void *object;

    open_arena();
    object = us_alloc(cache);
    assert(us_send(arena, object, &ticket) == US_OK);
    assert(in_child(receive_and_leave, &ticket) == 0);
    assert(us_free(cache, object) == US_OK);
    assert(us_reap(arena, &reaped) == US_OK && reaped.waiting == 0);
    assert(!look(object).shared && look(object).owner == 0);
    close_arena();
}

static int send_and_leave(void *arg)
{
    struct us_ticket ticket;
    void *object = us_alloc(cache);
    int *pipe_end = arg;

    memset(object, 0x5a, 64);
    return us_send(arena, object, &ticket) != US_OK ||
           write(*pipe_end, &ticket, sizeof(ticket)) != sizeof(ticket);
}

static void what_the_dead_sent_may_arrive_until_it_is_given_back(void)
{
    struct us_ticket first, second;
    void *object;
    int ends[2];

    open_arena();
    assert(pipe(ends) == 0);
    assert(in_child(send_and_leave, &ends[1]) == 0);
    assert(in_child(send_and_leave, &ends[1]) == 0);
    assert(read(ends[0], &first, sizeof(first)) == sizeof(first));
    assert(read(ends[0], &second, sizeof(second)) == sizeof(second));
    arena->reaped_ns = 0;
    us_reap_sometimes(arena);
    assert(us_receive(arena, &first, &object) == US_OK);
    assert(((char *)object)[5] == 0x5a && us_free(cache, object) == US_OK);
    us_reap_now(arena);
    assert(us_receive(arena, &second, &object) == US_ESTALE);
    (void)close(ends[0]);
    (void)close(ends[1]);
    close_arena();
}

static void bulk_and_large_objects_are_shared_like_others(void)
{
    struct us_ticket ticket;
    void *objects[8], *large, *same;

    open_arena();
    assert(us_alloc_bulk(cache, 0, -1, -1, 8, objects) == US_OK);
    assert(us_send(arena, objects[3], &ticket) == US_OK);
    assert(us_free_bulk(cache, 8, objects, -1) == US_OK);
    assert(look(objects[3]).transits == 1 && look(objects[2]).owner == 0);
    assert(us_receive(arena, &ticket, &same) == US_OK);
    assert(us_free_bulk(cache, 1, &same, -1) == US_OK && !look(objects[3]).shared);

    large = us_kmalloc(arena, 100000, US_GFP_ZERO, -1, -1);
    assert(us_send(arena, large, &ticket) == US_OK);
    assert(us_krealloc(arena, large, 10, 0, -1) == NULL);
    assert(us_kfree(arena, large, -1) == US_OK);
    assert(us_receive(arena, &ticket, &same) == US_OK && same == large);
    large = us_krealloc(arena, large, 200000, 0, -1); /* ours alone: ours again */
    assert(large != NULL && !look(large).shared);
    assert(us_kfree(arena, large, -1) == US_OK);
    close_arena();
}

/* ---- fork ---- */

static int drop_inherited(void *object)
{
    return us_free(cache, object) != US_OK || us_free(cache, object) != US_ENOTOWNER;
}

static void both_sides_of_a_fork_drop_for_themselves(void)
{
    void *object, *other;

    open_arena();
    object = us_alloc(cache);
    other = us_kmalloc(arena, 50000, 0, -1, -1);
    assert(in_child(drop_inherited, object) == 0);
    assert(__builtin_popcountll(look(object).holders) == 1);
    assert(__builtin_popcountll(look(other).holders) == 2); /* the child has not */
    assert(us_free(cache, object) == US_OK && !look(object).shared);
    assert(us_kfree(arena, other, -1) == US_OK);
    us_reap_now(arena);
    assert(look(other).holders == 0);
    close_arena();
}

static void one_process_too_many_is_an_error(void)
{
    pid_t children[US_PROCESSES];
    int ends[2], go[2], count = 0, refused = 0;
    char answer;

    open_arena();
    assert(pipe(ends) == 0 && pipe(go) == 0);
    for (; count < US_PROCESSES; count++) {
        children[count] = fork();
        if (children[count] == 0) {
            void *object = us_alloc(cache);

            answer = object != NULL ? 'y' : us_last_code() == US_ELIMIT ? 'n' : '?';
            (void)!write(ends[1], &answer, 1);
            (void)close(go[1]);
            (void)!read(go[0], &answer, 1);
            _exit(0);
        }
        assert(read(ends[0], &answer, 1) == 1 && answer != '?');
        refused += answer == 'n';
    }
    assert(refused == 1);
    (void)close(go[1]);
    for (int i = 0; i < count; i++) {
        (void)waitpid(children[i], NULL, 0);
    }
    /* All slots belong to the dead; a newcomer takes one over. */
    assert(in_child(send_and_leave, &ends[1]) == 0);
    (void)close(ends[0]);
    (void)close(ends[1]);
    (void)close(go[0]);
    close_arena();
}

static void a_child_does_not_keep_its_parent_alive(void)
{
    char name[64], byte = 0;
    int ready[2], end[2];
    struct us_process_info people[4] = {0};
    us_arena *seen;
    pid_t maker;

    (void)snprintf(name, sizeof(name), "share-test-%d", (int)getpid());
    assert(pipe(ready) == 0 && pipe(end) == 0);
    maker = fork();
    if (maker == 0) {
        struct us_arena_config config = {.size = 1 << 20, .cpus = 1, .nodes = 1};
        us_arena *made;

        (void)close(end[1]);
        if (us_arena_create(name, &config, &made) != US_OK) {
            _exit(1);
        }
        if (fork() == 0) {
            (void)!write(ready[1], &byte, 1);
            (void)!read(end[0], &byte, 1);
            _exit(0);
        }
        _exit(read(end[0], &byte, 1) != 0);
    }
    assert(read(ready[0], &byte, 1) == 1);
    kill_and_wait(maker);
    assert(us_arena_attach(name, &seen) == US_OK);
    assert(us_arena_processes(seen, people, 4) >= 2);
    for (int i = 0; i < 4; i++) {
        assert(people[i].pid != maker || !people[i].alive);
    }
    us_arena_detach(seen);
    assert(us_arena_unlink(name) == US_OK);
    (void)close(end[1]);
    (void)close(end[0]);
    (void)close(ready[0]);
    (void)close(ready[1]);
}

/* ---- deaths between two stores ---- */

/* As us_send() would be in the middle of. */
static int die_with_a_transit_too_many(void *object)
{
    struct us_thread *t = us_thread_self(arena);
    struct us_holders holders;
    struct us_spot spot;

    if (us_spot_find(arena, us_offset(arena, object), &spot) != US_OK) {
        return 1;
    }
    us_intent_begin(t, US_OP_SEND, spot.offset);
    return us_hold_share(arena, &spot) != US_OK ||
           us_hold_send(arena, &spot, false, &holders) != US_OK;
}

static int die_with_the_last_bit_gone(void *object)
{
    struct us_thread *t = us_thread_self(arena);
    struct us_holders h;
    struct us_spot spot;
    struct us_pair old;

    if (us_spot_find(arena, us_offset(arena, object), &spot) != US_OK) {
        return 1;
    }
    us_intent_begin(t, US_OP_DROP, spot.offset);
    old = us_spot_pair(arena, &spot);
    h = us_holders_read(old);
    h.processes = 0;
    return !us_cas_pair(spot.holders, old, us_holders_next(h));
}

static void deaths_in_the_middle_are_mended(void)
{
    struct us_ticket ticket;
    struct us_reaped reaped;
    void *object, *same;

    open_arena();
    object = us_alloc(cache);
    assert(us_send(arena, object, &ticket) == US_OK);
    assert(in_child(die_with_a_transit_too_many, object) == 0);
    assert(look(object).transits == 2);
    assert(us_reap(arena, &reaped) == US_OK && reaped.waiting == 0);
    assert(look(object).transits == 1 && look(object).holders == 1);
    assert(us_receive(arena, &ticket, &same) == US_OK);
    assert(us_free(cache, object) == US_OK && us_free(cache, object) == US_OK);

    object = us_alloc(cache);
    assert(in_child(die_with_the_last_bit_gone, object) == 0);
    assert(look(object).shared && look(object).holders == 0);
    assert(us_reap(arena, &reaped) == US_OK && reaped.waiting == 0);
    assert(!look(object).shared && look(object).owner == 0);
    close_arena();
}

/* ---- channels ---- */

static us_err push(us_channel *ch, void *object)
{
    struct us_message m = {.object = object, .nbytes = 64};

    return us_channel_send(ch, &m, 0);
}

static void *pull(us_channel *ch)
{
    struct us_message m = {0};

    return us_channel_receive(ch, &m, 0) == US_OK ? m.object : NULL;
}

static void a_channel_is_a_bounded_queue(void)
{
    us_channel *ch, *none;
    void *objects[4];
    struct us_message m;

    open_arena();
    assert(us_channel_create(arena, 0, &none) == US_EBADARG);
    assert(us_channel_create(arena, 3, &ch) == US_OK);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 4; i++) {
            objects[i] = us_alloc(cache);
            assert(push(ch, objects[i]) == (i < 3 ? US_OK : US_ETIMEDOUT));
            assert(us_free(cache, objects[i]) == US_OK);
        }
        assert(us_channel_length(ch) == 3);
        for (int i = 0; i < 3; i++) {
            assert(pull(ch) == objects[i]);
            assert(us_free(cache, objects[i]) == US_OK);
        }
        assert(us_channel_receive(ch, &m, 1000000) == US_ETIMEDOUT);
    }
    objects[0] = us_alloc(cache);
    assert(push(ch, objects[0]) == US_OK && push(ch, objects[0]) == US_OK);
    us_channel_close(ch);
    assert(push(ch, objects[0]) == US_EHANGUP);
    assert(pull(ch) == objects[0]);
    assert(us_free(cache, objects[0]) == US_OK && us_free(cache, objects[0]) == US_OK);
    assert(look(objects[0]).transits == 1);  /* in the channel */
    assert(us_channel_release(ch) == US_OK); /* and gone with it */
    assert(!look(objects[0]).shared);
    close_arena();
}

/* More than there are places for at a time. */
static void channels_come_and_go(void)
{
    us_channel *ch;

    open_arena();
    for (int i = 0; i < 2 * US_CHANNELS; i++) {
        assert(us_channel_create(arena, 1, &ch) == US_OK);
        assert(us_channel_release(ch) == US_OK);
    }
    close_arena();
}

static us_channel *the_channel;

static int wait_for_ever(void *unused)
{
    struct us_message m;

    (void)unused;
    return us_channel_receive(the_channel, &m, -1) != US_OK;
}

static void a_killed_receiver_disturbs_nobody(void)
{
    pid_t victims[3];
    struct us_message m;
    void *object;

    open_arena();
    assert(us_channel_create(arena, 4, &the_channel) == US_OK);
    for (int i = 0; i < 3; i++) {
        victims[i] = fork();
        if (victims[i] == 0) {
            _exit(wait_for_ever(NULL));
        }
    }
    (void)usleep(30000);
    for (int i = 0; i < 3; i++) {
        kill_and_wait(victims[i]);
    }
    object = us_alloc(cache);
    assert(push(the_channel, object) == US_OK);
    assert(us_channel_receive(the_channel, &m, -1) == US_OK && m.object == object);
    assert(us_free(cache, object) == US_OK && us_free(cache, object) == US_OK);
    assert(us_channel_release(the_channel) == US_OK);
    close_arena();
}

#define MESSAGES 20000
#define SENDERS  2

/* Each message says who sent it and its number. */
static int send_many(void *who)
{
    for (uint64_t i = 0; i < MESSAGES; i++) {
        uint64_t *object = us_alloc(cache);
        struct us_message m = {.object = object, .nbytes = 64};

        object[0] = *(uint64_t *)who;
        object[1] = i;
        if (us_channel_send(the_channel, &m, -1) != US_OK ||
            us_free(cache, object) != US_OK) {
            return 1;
        }
    }
    return 0;
}

/* Sum of the numbers, which must grow for each sender. */
static int receive_many(void *arg)
{
    uint64_t next[SENDERS] = {0}, sum = 0;
    struct us_message m;
    int *pipe_end = arg;

    while (us_channel_receive(the_channel, &m, -1) == US_OK) {
        uint64_t *object = m.object;

        if (object[0] >= SENDERS || object[1] < next[object[0]]) {
            return 1;
        }
        next[object[0]] = object[1] + 1;
        sum += object[1] + 1;
        if (us_free(cache, object) != US_OK) {
            return 2;
        }
    }
    return write(*pipe_end, &sum, sizeof(sum)) != sizeof(sum);
}

static void many_senders_and_receivers(void)
{
    uint64_t who[SENDERS] = {0, 1}, sum = 0, part;
    pid_t children[2 * SENDERS];
    int ends[2], status;

    open_arena();
    assert(pipe(ends) == 0);
    assert(us_channel_create(arena, 5, &the_channel) == US_OK);
    for (int i = 0; i < 2 * SENDERS; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            _exit(i < SENDERS ? send_many(&who[i]) : receive_many(&ends[1]));
        }
    }
    for (int i = 0; i < 2 * SENDERS; i++) {
        if (i == SENDERS) {
            us_channel_close(the_channel);
        }
        (void)waitpid(children[i], &status, 0);
        assert(status == 0);
    }
    for (int i = 0; i < SENDERS; i++) {
        assert(read(ends[0], &part, sizeof(part)) == sizeof(part));
        sum += part;
    }
    assert(sum == (uint64_t)SENDERS * MESSAGES * (MESSAGES + 1) / 2);
    (void)close(ends[0]);
    (void)close(ends[1]);
    assert(us_channel_release(the_channel) == US_OK);
    close_arena();
}

static void a_channel_of_the_dead_is_emptied(void)
{
    uint64_t who = 0;
    struct us_reaped reaped;
    void *object;

    open_arena();
    assert(us_channel_create(arena, MESSAGES + 1, &the_channel) == US_OK);
    object = us_alloc(cache);
    assert(push(the_channel, object) == US_OK && us_free(cache, object) == US_OK);
    assert(in_child(send_many, &who) == 0); /* the child holds the channel, too */
    assert(us_channel_length(the_channel) == MESSAGES + 1);
    assert(us_channel_release(the_channel) == US_OK);
    assert(us_reap(arena, &reaped) == US_OK && reaped.waiting == 0);
    assert(!look(object).shared);
    close_arena();
}

static void numbers_of_formats(void)
{
    uint32_t number, again;
    char text[120];
    us_channel *ch;

    open_arena();
    assert(us_channel_create(arena, 1, &ch) == US_OK);
    for (uint32_t i = 1; i <= US_CHANNEL_FORMATS; i++) {
        assert(us_channel_format(ch, &i, sizeof(i), &number) == US_OK && number == i);
        assert(us_channel_format(ch, &i, sizeof(i), &again) == US_OK && again == i);
    }
    assert(us_channel_format(ch, "one more", 8, &number) == US_ELIMIT);
    assert(us_channel_format_text(ch, 7, text) == 4 && text[0] == 7);
    assert(us_channel_format_text(ch, 65, text) == 0);
    assert(us_channel_release(ch) == US_OK);
    close_arena();
}

#ifdef US_TSAN /* it sees one process only */
#define ONE_PROCESS 1
#else
#define ONE_PROCESS 0
#endif

int main(void)
{
    a_channel_is_a_bounded_queue();
    a_ticket_is_a_reference_and_the_last_drop_frees();
    tickets_of_earlier_objects_are_stale();
    bulk_and_large_objects_are_shared_like_others();
    numbers_of_formats();
    channels_come_and_go();
    if (!ONE_PROCESS) {
        a_receiver_that_dies_holds_nothing();
        what_the_dead_sent_may_arrive_until_it_is_given_back();
        both_sides_of_a_fork_drop_for_themselves();
        one_process_too_many_is_an_error();
        a_child_does_not_keep_its_parent_alive();
        deaths_in_the_middle_are_mended();
        a_killed_receiver_disturbs_nobody();
        many_senders_and_receivers();
        a_channel_of_the_dead_is_emptied();
    }
    return 0;
}
