/* SPDX-License-Identifier: MIT */
/*
 * endings_test.c - every way in which Linux ends a participant, with real processes:
 * killed, stopped, replaced by exec(), in another pid namespace, under a pid that had
 * been somebody's. Of threads: thread_endings_test.c.
 *
 * Each test ends in close_arena(): whatever was held has come back, and nothing is left
 * to mend. What a machine does not allow is named on stderr and left out.
 */
#include <sys/prctl.h>

#include "share/endings.h"

/* ---- processes ---- */

static void kill_and_wait(pid_t child)
{
    (void)kill(child, SIGKILL);
    (void)waitpid(child, NULL, 0);
}

static void a_killed_child_of_a_fork_leaves_its_parent_whole(void)
{
    struct signal_pipe ready = new_pipe();
    void *mine;
    pid_t child;

    open_arena();
    mine = us_alloc(cache);
    memset(mine, 0x5a, 64);
    child = fork();
    if (child == 0) {
        for (int i = 0; i < 100; i++) {
            (void)us_alloc(cache);
        }
        say(&ready);
        us_store_relaxed32(&stop_load, 0);
        (void)churn(NULL);
    }
    hear(&ready);
    kill_and_wait(child);
    assert(reap().processes == 1);
    assert(((char *)mine)[63] == 0x5a && us_free(cache, mine) == US_OK);
    close_pipe(&ready);
    close_arena();
}

/* The child has one thread, whatever the others were in the middle of. */
static void forks_beside_threads_inside(void)
{
    pthread_t threads[3];
    pid_t children[20];

    open_arena();
    start(threads, 3, churn);
    for (int i = 0; i < 20; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            for (uint64_t k = 0; k < 50; k++) {
                churn_once(k);
            }
            _exit(0);
        }
        if (i % 2) {
            kill_and_wait(children[i]);
        }
    }
    for (int i = 0; i < 20; i += 2) {
        assert(wait_for(children[i]) == 0);
    }
    stop(threads, 3);
    close_arena();
}

static void handles_of_a_child_that_died_come_back(void)
{
    struct us_ticket ticket;
    void *object, *same;
    pid_t child;

    open_arena();
    object = us_alloc(cache);
    for (int i = 0; i < 1000; i++) { /* its next record is none of the first ones */
        assert(us_send(arena, object, &ticket) == US_OK);
        assert(us_receive(arena, &ticket, &same) == US_OK);
        assert(us_free(cache, same) == US_OK);
    }
    child = fork();
    if (child == 0) {
        void *own = us_alloc(cache);

        _exit(us_send(arena, own, &ticket) != US_OK);
    }
    assert(wait_for(child) == 0);
    assert(us_free(cache, object) == US_OK);
    close_arena();
}

static void exec_is_a_death(void)
{
    struct signal_pipe alive = new_pipe();
    char byte;
    pid_t child;

    open_arena();
    child = fork();
    if (child == 0) {
        assert(us_alloc(cache) != NULL);
        (void)close(alive.ends[0]);
        (void)execl("/bin/sleep", "sleep", "600", NULL); /* closes the pipe */
        _exit(1);
    }
    (void)close(alive.ends[1]);
    assert(read(alive.ends[0], &byte, 1) == 0);
    assert(kill(child, 0) == 0); /* the process goes on, the participant does not */
    assert(living() == 1 && reap().processes == 1);
    kill_and_wait(child);
    (void)close(alive.ends[0]);
    close_arena();
}

static void a_stopped_process_is_not_dead(void)
{
    struct signal_pipe ready = new_pipe(), go = new_pipe();
    struct us_reaped reaped;
    pid_t child;
    int status;

    open_arena();
    child = fork();
    if (child == 0) {
        void *object = us_alloc(cache);

        memset(object, 0x77, 64);
        say(&ready);
        hear(&go);
        _exit(((char *)object)[40] != 0x77 || us_free(cache, object) != US_OK);
    }
    hear(&ready);
    assert(kill(child, SIGSTOP) == 0);
    assert(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    assert(us_reap(arena, &reaped) == US_OK);
    assert(reaped.processes == 0 && reaped.objects == 0 && reaped.waiting == 0);
    assert(living() == 2);
    for (uint64_t i = 0; i < 100; i++) {
        churn_once(i);
    }
    assert(kill(child, SIGCONT) == 0);
    say(&go);
    assert(wait_for(child) == 0);
    close_pipe(&ready);
    close_pipe(&go);
    close_arena();
}

static void processes_detach_while_others_use_it(void)
{
    struct us_arena_config config = {.size = 16 << 20, .cpus = 2, .nodes = 1};
    us_arena *kept;
    pid_t children[3];

    open_arena();
    us_arena_detach(arena);
    assert(us_arena_create(name, &config, &kept) == US_OK);
    for (int i = 0; i < 3; i++) {
        children[i] = fork();
        if (children[i] != 0) {
            continue;
        }
        us_arena_detach(kept);
        for (int round = 0; round < 100; round++) {
            struct us_cache_config shape = US_CACHE_CONFIG_INIT;

            shape.object_size = 64;
            assert(us_arena_attach(name, &arena) == US_OK);
            assert(us_cache_create(arena, "thing", &shape, &cache) == US_OK);
            churn_once((uint64_t)round);
            assert(us_alloc(cache) != NULL); /* goes back with the attachment */
            us_arena_detach(arena);
        }
        _exit(0);
    }
    for (int i = 0; i < 3; i++) {
        assert(wait_for(children[i]) == 0);
    }
    assert(us_arena_unlink(name) == US_OK);
    arena = kept;
    close_arena();
}

/* ---- pids ---- */

/* In a pid namespace of our own the next pid can be chosen. */
static bool choose_next_pid(pid_t pid)
{
    char text[16];
    int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
    int length = snprintf(text, sizeof(text), "%d", (int)pid - 1);
    bool chosen = fd >= 0 && write(fd, text, (size_t)length) == length;

    if (fd >= 0) {
        (void)close(fd);
    }
    return chosen;
}

static pid_t fork_and_hold(const struct signal_pipe *ready)
{
    pid_t child = fork();

    if (child == 0) {
        (void)us_alloc(cache);
        say(ready);
        for (;;) {
            (void)pause();
        }
    }
    hear(ready);
    return child;
}

#define SKIPPED 77

static int reuse_a_pid(void)
{
    struct signal_pipe ready = new_pipe();
    pid_t first = fork_and_hold(&ready), second;

    kill_and_wait(first);
    if (!choose_next_pid(first)) {
        return SKIPPED;
    }
    second =
        fork_and_hold(&ready); /* takes another slot: the first waits for a reaper */
    if (second != first) {
        kill_and_wait(second);
        return SKIPPED;
    }
    if (reap().processes > 1 || living() < 2) {
        return 1;
    }
    kill_and_wait(second);
    return 0;
}

/* Runs `work` as the first process of a pid namespace. */
static int in_a_namespace(int (*work)(void))
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (unshare(CLONE_NEWPID) != 0) {
            _exit(SKIPPED);
        }
        child = fork();
        if (child == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            _exit(work());
        }
        status = wait_for(child);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    status = wait_for(child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static void a_pid_that_comes_again_is_somebody_else(void)
{
    int status;

    open_arena();
    status = in_a_namespace(reuse_a_pid);
    if (status == SKIPPED) {
        (void)fprintf(stderr, "endings: skipped reuse of a pid: pids of a namespace "
                              "cannot be chosen here\n");
    } else {
        assert(status == 0);
    }
    close_arena();
}

static struct signal_pipe settled, finish;

static int hold_and_wait(void)
{
    void *object = us_alloc(cache);

    if (getpid() != 1) {
        return 2;
    }
    memset(object, 0x3c, 64);
    say(&settled);
    hear(&finish);
    return ((char *)object)[9] != 0x3c || us_free(cache, object) != US_OK;
}

/* Participants that are alive and call themselves 1. */
static uint32_t first_ones(void)
{
    struct us_process_info people[16];
    uint32_t count = us_arena_processes(arena, people, 16), ones = 0;

    for (uint32_t i = 0; i < count && i < 16; i++) {
        ones += people[i].pid == 1 && people[i].alive;
    }
    return ones;
}

/* Both are pid 1 where they live: their locks tell them apart. */
static void equal_pids_of_two_namespaces_are_two_processes(void)
{
    pid_t outer[2];

    if (geteuid() != 0) {
        (void)fprintf(stderr, "endings: skipped pid namespaces: not root\n");
        return;
    }
    open_arena();
    settled = new_pipe();
    finish = new_pipe();
    for (int i = 0; i < 2; i++) {
        outer[i] = fork();
        if (outer[i] == 0) {
            (void)setpgid(0, 0);
            _exit(in_a_namespace(hold_and_wait));
        }
        hear(&settled);
    }
    assert(first_ones() == 2);
    (void)kill(-outer[0], SIGKILL);
    (void)wait_for(outer[0]);
    for (int tries = 0; first_ones() != 1; tries++) { /* its child dies, too */
        assert(tries < 100000);
        (void)sched_yield();
    }
    assert(reap().processes >= 1 && first_ones() == 1);
    say(&finish);
    assert(wait_for(outer[1]) == 0);
    close_pipe(&settled);
    close_pipe(&finish);
    close_arena();
}

int main(void)
{
    if (ALL) {
        a_killed_child_of_a_fork_leaves_its_parent_whole();
        handles_of_a_child_that_died_come_back();
        exec_is_a_death();
        a_stopped_process_is_not_dead();
        processes_detach_while_others_use_it();
        a_pid_that_comes_again_is_somebody_else();
        equal_pids_of_two_namespaces_are_two_processes();
    }
    if (ALL && ABRUPT) {
        forks_beside_threads_inside();
    }
    return 0;
}
