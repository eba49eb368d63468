/* SPDX-License-Identifier: MIT */
/*
 * thread_endings_test.c - every way in which a thread ends while its process goes on:
 * it returns, is cancelled, vanishes, leaves from a callback, or is the main thread.
 */
#include <sys/syscall.h>

#include "share/endings.h"

/* ---- threads ---- */

static void *use_once(void *unused)
{
    (void)unused;
    churn_once(1);
    return NULL;
}

static void ended_threads_leave_their_slots(void)
{
    pthread_t threads[8];

    open_arena();
    churn_once(0);
    for (int round = 0; round < 100; round++) {
        start(threads, 8, use_once);
        stop(threads, 8);
    }
    assert(us_arena_threads(arena, NULL, 0) == 1);
    assert(us_load_relaxed32(&arena->header->thread_high) <= 9);
    close_arena();
}

static void *churn_until_cancelled(void *unused)
{
    (void)unused;
    (void)pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    return churn(NULL);
}

/* What a victim was freeing in bulk stays marked so until its process ends. */
static void complain_in_a_child(const char *finding, void *others)
{
    if (strstr(finding, "no participant (V10)") == NULL) {
        complain(finding, NULL);
        ++*(int *)others;
    }
}

/* In a process of its own: what a victim had got and not given back goes with it. */
static int cancel_many(void)
{
    pthread_t load[2];
    void *result;
    int findings = 0;

    start(load, 2, churn);
    for (int i = 0; i < 150; i++) {
        pthread_t victim;

        assert(pthread_create(&victim, NULL, churn_until_cancelled, NULL) == 0);
        for (int k = 0; k < i; k++) {
            churn_once((uint64_t)k); /* until it is somewhere else than last time */
        }
        assert(pthread_cancel(victim) == 0);
        assert(pthread_join(victim, &result) == 0 && result == PTHREAD_CANCELED);
    }
    stop(load, 2);
    (void)reap();
    (void)us_validate(arena, NULL, complain_in_a_child, &findings);
    if (findings != 0) {
        return 1;
    }
    churn_once(0);
    if (us_arena_threads(arena, NULL, 0) > 2) { /* the parent's and ours */
        complain("threads that ended still have slots", NULL);
        return 1;
    }
    return 0;
}

static void cancelled_threads_are_mended_while_their_process_lives(void)
{
    pid_t child;

    open_arena();
    child = fork();
    if (child == 0) {
        _exit(cancel_many());
    }
    assert(wait_for(child) == 0);
    close_arena();
}

/* As a thread ends that no C library looks after. */
static void *vanish_with_a_lock(void *unused)
{
    (void)unused;
    assert(us_lock(arena, us_thread_self(arena), &arena->header->cache_lock) == US_OK);
    (void)syscall(SYS_exit, 0);
    return NULL;
}

static void vanished_threads_are_noticed_by_their_process(void)
{
    struct us_cache_config shape = US_CACHE_CONFIG_INIT;
    us_cache *second;

    open_arena();
    shape.object_size = 128;
    shape.flags = US_NO_MERGE;
    for (int i = 0; i < 10; i++) {
        pthread_t victim;

        start(&victim, 1, vanish_with_a_lock);
        stop(&victim, 1);
        assert(reap().threads == 1);
        assert(us_cache_create(arena, "second", &shape, &second) == US_OK);
        assert(us_cache_destroy(arena, "second") == US_OK);
    }
    close_arena();
}

static bool constructor_that_leaves(void *object, void *leave)
{
    memset(object, 0x11, 32);
    if (*(bool *)leave) {
        pthread_exit(NULL);
    }
    return true;
}

static us_cache *constructed;

static void *construct(void *unused)
{
    (void)unused;
    return us_alloc(constructed);
}

static void a_thread_may_leave_from_a_constructor(void)
{
    struct us_arena_config config = {.size = 16 << 20, .cpus = 1, .nodes = 1};
    struct us_cache_config shape = US_CACHE_CONFIG_INIT;
    bool leave = true;
    pthread_t thread;
    void *object;

    assert(us_arena_create(NULL, &config, &arena) == US_OK);
    shape.object_size = 32;
    shape.ctor = constructor_that_leaves;
    shape.ctor_context = &leave;
    assert(us_cache_create(arena, "thing", &shape, &constructed) == US_OK);
    start(&thread, 1, construct);
    stop(&thread, 1);
    assert(reap().threads == 1);
    leave = false;
    object = us_alloc(constructed);
    assert(object != NULL && ((char *)object)[31] == 0x11);
    assert(us_free(constructed, object) == US_OK);
    close_arena();
}

/* ---- the main thread leaves first ---- */

static struct signal_pipe main_gone, told;

static void *go_on_alone(void *unused)
{
    char path[64], line[256] = "", *state;
    pid_t child;
    FILE *file;

    (void)unused;
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)getpid());
    do { /* until the leader is a zombie */
        file = fopen(path, "re");
        assert(file != NULL && fgets(line, sizeof(line), file) != NULL);
        (void)fclose(file);
        state = strrchr(line, ')');
    } while (state[2] != 'Z');
    say(&main_gone);
    hear(&told);
    churn_once(0);
    child = fork();
    if (child == 0) {
        void *object = us_alloc(cache);

        _exit(object == NULL || us_free(cache, object) != US_OK);
    }
    _exit(wait_for(child) != 0 || us_alloc(cache) == NULL);
}

static void threads_go_on_when_main_has_left(void)
{
    struct us_reaped reaped;
    pid_t child;

    open_arena();
    main_gone = new_pipe();
    told = new_pipe();
    child = fork();
    if (child == 0) {
        pthread_t thread;

        assert(us_alloc(cache) != NULL);
        start(&thread, 1, go_on_alone);
        pthread_exit(NULL);
    }
    hear(&main_gone);
    assert(us_reap(arena, &reaped) == US_OK);
    assert(reaped.processes == 0 && reaped.objects == 0 && living() == 2);
    say(&told);
    assert(wait_for(child) == 0);
    assert(reap().objects >= 2);
    close_pipe(&main_gone);
    close_pipe(&told);
    close_arena();
}

int main(void)
{
    ended_threads_leave_their_slots();
    if (ALL) {
        a_thread_may_leave_from_a_constructor();
    }
    if (ALL && !EMULATED) {
        threads_go_on_when_main_has_left();
    }
    if (ALL && ABRUPT) {
        cancelled_threads_are_mended_while_their_process_lives();
        vanished_threads_are_noticed_by_their_process();
    }
    return 0;
}
