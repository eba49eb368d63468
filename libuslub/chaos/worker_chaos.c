/* SPDX-License-Identifier: MIT */
/*
 * worker_chaos.c - a C worker of `make chaos`: some threads that do one random thing
 * after another, until they are killed, told to stop, or end in some way of their own:
 * return, be cancelled, vanish; fork, exec, quit.
 *
 *   chaos-worker ARENA ORACLE_FD ARENA_BYTES SEED THREADS FLAGS WAS
 *
 * FLAGS: letters; m: the main thread leaves first, and the others go on. WAS: the chair
 * that this process had before its exec(), or -1. Exit status 0, whatever happened:
 * violations are in the oracle.
 */
#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/atomic.h"
#include "chaos/worker.h"

struct worker worker = {.lock = PTHREAD_MUTEX_INITIALIZER};
_Thread_local struct hand *hand;
_Thread_local volatile bool inside;

static struct hand hands[CHAOS_THREADS];
static pthread_t threads[CHAOS_THREADS];
static uint32_t threads_count;
static char **arguments;

/* ---- being interrupted ---- */

void enter_engine(void)
{
    inside = true;
    (void)pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
}

void leave_engine(void)
{
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    inside = false;
}

/* Said before it dies, because nobody else may be there to see how. */
static void crash(int signal)
{
    void *frames[24];

    chaos_complain(worker.oracle, worker.chair, strsignal(signal));
    backtrace_symbols_fd(frames, backtrace(frames, 24), STDERR_FILENO);
    _exit(0);
}

/* As a thread ends whose language knows nothing of pthread_exit(). */
static void vanish(int signal)
{
    (void)signal;
    if (inside) {
        (void)syscall(SYS_exit, 0);
    }
}

uint32_t dice(uint32_t sides)
{
    hand->random ^= hand->random << 13;
    hand->random ^= hand->random >> 7;
    hand->random ^= hand->random << 17;
    return (uint32_t)((hand->random >> 32) % sides);
}

void refused(const char *what, us_err err, uint32_t allowed)
{
    char text[200];

    /* The first call of a new thread needs room in the arena, whatever call it is. */
    allowed |= MAY(US_ENOMEM) | MAY(US_ELIMIT);
    if (allowed >> err & 1) {
        worker.oracle->chairs[worker.chair].refused++;
        return;
    }
    (void)snprintf(text, sizeof(text), "%s: %s: %.140s", what, us_error_name(err),
                   err == us_last_code() ? us_last_error() : "");
    chaos_complain(worker.oracle, worker.chair, text);
}

/* ---- ends of threads ---- */

static void work(void);

static void *run_thread(void *arg)
{
    hand = arg;
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    (void)pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    work();
    return NULL;
}

static void start_thread(uint32_t i)
{
    hands[i].leave = 0;
    if (pthread_create(threads + i, NULL, run_thread, hands + i) != 0) {
        chaos_complain(worker.oracle, worker.chair, "no thread to be had");
        _exit(0);
    }
}

/* One of the others ends, in one of three ways, and another takes its place. */
static void renew_thread(void)
{
    const struct timespec nap = {.tv_nsec = 200000};
    enum chaos_operation way = CHAOS_THREAD_RETURN + dice(3);
    uint32_t i = 1 + dice(threads_count - 1);
    void *result;
    uint32_t tries = 0;

    chaos_begin(worker.oracle, worker.chair, hand->thread, way);
    if (way == CHAOS_THREAD_CANCEL) {
        (void)pthread_cancel(threads[i]);
    }
    us_store_release32(&hands[i].leave, way == CHAOS_THREAD_RETURN);
    while (pthread_tryjoin_np(threads[i], &result) != 0) {
        if (way == CHAOS_THREAD_VANISH) { /* until one meets it inside */
            (void)pthread_kill(threads[i], SIGUSR1);
        }
        if (++tries == 20000) { /* some seconds: it does not come out */
            us_store_release32(&hands[i].leave, 1);
        }
        (void)nanosleep(&nap, NULL);
    }
    worker.oracle->chairs[worker.chair].threads[i].tid = 0;
    start_thread(i);
}

/* ---- ends of the process ---- */

static bool heir_of_the_arena(void)
{
    struct us_process_info people[64];
    uint32_t count = us_arena_processes(worker.arena, people, 64);

    for (uint32_t i = 0; i < count && i < 64; i++) {
        if (people[i].self) {
            return true;
        }
    }
    return false;
}

static void sit_down(uint32_t heir)
{
    int chair = chaos_sit(worker.oracle, 'C', heir);

    if (chair < 0) {
        _exit(0);
    }
    worker.chair = (uint32_t)chair;
}

/* The child goes on with what it inherited; the threads stayed behind. */
static void become_a_child(void)
{
    if (!heir_of_the_arena()) { /* there was no place for us: nothing is ours */
        _exit(0);
    }
    sit_down(1);
    hands[0].random ^= (uint64_t)getpid() << 20 | 1;
    hands[0].thread = 0;
    hands[0].leave = 0;
    hand = hands;
    threads_count = 1;
    for (uint32_t i = 0; i < worker.count; i++) {
        struct hold *h = worker.holds + i;

        (void)chaos_join(worker.oracle, worker.chair, h->offset, h->memory, h->nbytes);
    }
}

static void do_fork(void)
{
    pid_t child;

    if (us_load_relaxed32(&worker.oracle->room) == 0) {
        return;
    }
    (void)us_fetch_add_relaxed32(&worker.oracle->room, (uint32_t)-1);
    chaos_begin(worker.oracle, worker.chair, hand->thread, CHAOS_FORK);
    (void)pthread_mutex_lock(&worker.lock);
    for (uint32_t i = 0; i < worker.count; i++) {
        chaos_share(worker.oracle, worker.chair, worker.holds[i].offset);
        worker.holds[i].alone = false;
    }
    child = fork();
    if (child == 0) {
        become_a_child();
    }
    (void)pthread_mutex_unlock(&worker.lock);
    if (child < 0) {
        worker.oracle->chairs[worker.chair].refused++;
    }
}

static void do_exec(void)
{
    struct chaos_chair *c = worker.oracle->chairs + worker.chair;
    char seed[24], was[24];

    chaos_begin(worker.oracle, worker.chair, hand->thread, CHAOS_EXEC);
    (void)snprintf(seed, sizeof(seed), "%llu", (unsigned long long)hand->random);
    (void)snprintf(was, sizeof(was), "%u", worker.chair);
    arguments[4] = seed;
    arguments[7] = was;
    us_store_release32(&c->state, CHAOS_EXECING);
    (void)execv(arguments[0], arguments); /* /proc/self may be a zombie */
    us_store_release32(&c->state, CHAOS_LIVE);
    refused("exec", US_ESYSTEM, 0);
}

/* The arena is unmapped here, and mapped again; what we held goes back. */
static void do_reattach(void)
{
    chaos_begin(worker.oracle, worker.chair, hand->thread, CHAOS_REATTACH);
    let_go_of_all(dice(2) == 0);
    for (uint32_t i = 0; i < worker.channels_count; i++) {
        us_err err = us_channel_release(worker.channels[i]);

        if (err != US_OK) {
            refused("release of a channel", err, 0);
        }
    }
    us_arena_detach(worker.arena);
    while (!open_arena(arguments[1])) {
        chaos_begin(worker.oracle, worker.chair, hand->thread, CHAOS_REATTACH);
        if (us_load_relaxed32(&worker.oracle->stop)) {
            _exit(0);
        }
    }
}

static void do_quit(void)
{
    uint32_t way = dice(3);

    chaos_begin(worker.oracle, worker.chair, hand->thread, CHAOS_QUIT);
    if (way == 0 && threads_count == 1) {
        let_go_of_all(true);
        us_arena_detach(worker.arena);
    }
    if (way == 1) {
        exit(0);
    }
    _exit(0);
}

/* ---- the loop ---- */

static void work(void)
{
    while (!us_load_relaxed32(&worker.oracle->stop)) {
        bool may_end = hand->thread == 0 && !worker.oracle->calm;
        uint32_t roll = may_end ? dice(20000) : UINT32_MAX;

        if (us_load_acquire32(&hand->leave)) {
            return;
        }
        if (roll < 4) {
            do_fork();
        } else if (roll < 5) {
            do_exec();
        } else if (roll < 6) {
            do_quit();
        } else if (roll < 40 && threads_count > 1) {
            renew_thread();
        } else if (roll < 10 && threads_count == 1) {
            do_reattach();
        } else {
            operate();
        }
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = vanish, .sa_flags = SA_RESTART};
    bool main_leaves;

    if (argc != 8) {
        (void)fprintf(stderr, "chaos-worker: run dev/chaos.py\n");
        return 2;
    }
    arguments = argv;
    worker.oracle = chaos_map(atoi(argv[2]), strtoull(argv[3], NULL, 10));
    if (worker.oracle == NULL) {
        return 1;
    }
    threads_count = (uint32_t)atoi(argv[5]);
    main_leaves = strchr(argv[6], 'm') != NULL;
    (void)signal(SIGCHLD, SIG_IGN); /* children are the conductor's to count */
    (void)sigaction(SIGUSR1, &action, NULL);
    action.sa_handler = crash;
    action.sa_flags = (int)SA_RESETHAND;
    for (int i = 0; i < 4; i++) {
        (void)sigaction((int[]){SIGSEGV, SIGBUS, SIGABRT, SIGILL}[i], &action, NULL);
    }
    for (uint32_t i = 0; i < CHAOS_THREADS; i++) {
        hands[i] = (struct hand){
            .thread = i,
            .random = (strtoull(argv[4], NULL, 10) + i + 1) * 0x9e3779b97f4a7c15u | 1,
        };
    }
    hand = hands;
    if (atoi(argv[7]) >= 0) {
        us_store_release32(&worker.oracle->chairs[atoi(argv[7])].state, CHAOS_DEAD);
    }
    sit_down(0);
    chaos_begin(worker.oracle, worker.chair, 0, CHAOS_REATTACH);
    if (!open_arena(argv[1])) {
        return 0;
    }
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    for (uint32_t i = threads_count; i-- > (main_leaves ? 0 : 1);) {
        start_thread(i); /* last the one that looks after the others */
    }
    if (main_leaves) {
        pthread_exit(NULL);
    }
    work();
    return 0;
}
