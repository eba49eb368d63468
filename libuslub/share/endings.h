/* SPDX-License-Identifier: MIT */
/*
 * endings.h - what the tests of endings share: an arena that must be whole at the end,
 * load on all of its paths, pipes that say how far somebody is.
 */
#ifndef US_SHARE_ENDINGS_H
#define US_SHARE_ENDINGS_H

#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/names.h"
#include "share/share.h"

static us_arena *arena;
static us_cache *cache;
static char name[64];

static void open_arena(void)
{
    struct us_arena_config config = {.size = 16 << 20, .cpus = 2, .nodes = 1};
    struct us_cache_config shape = US_CACHE_CONFIG_INIT;

    (void)snprintf(name, sizeof(name), "endings-test-%d", (int)getpid());
    assert(us_arena_create(name, &config, &arena) == US_OK);
    assert(us_arena_unlink(name) == US_OK);
    shape.object_size = 64;
    assert(us_cache_create(arena, "thing", &shape, &cache) == US_OK);
}

static void complain(const char *finding, void *arg)
{
    (void)arg;
    (void)fprintf(stderr, "endings: %s\n", finding);
}

/* Until nothing is left to do; what it did. */
static struct us_reaped reap(void)
{
    struct us_reaped sum = {0}, now = {0};

    for (int tries = 0; tries < 5000; tries++) {
        assert(us_reap(arena, &now) == US_OK);
        sum.processes += now.processes;
        sum.threads += now.threads;
        sum.objects += now.objects;
        if (now.waiting == 0 && now.doubtful == 0) {
            return sum;
        }
        (void)sched_yield();
    }
    (void)fprintf(stderr, "endings: reap() comes to no end\n");
    abort();
}

static void close_arena(void)
{
    (void)reap();
    assert(us_validate(arena, NULL, complain, NULL) == 0);
    if (us_cache_destroy(arena, "thing") != US_OK) {
        (void)fprintf(stderr, "endings: %s\n", us_last_error());
        abort();
    }
    us_arena_detach(arena);
}

static uint32_t living(void)
{
    struct us_arena_info info = {0};

    assert(us_arena_stat(arena, &info) == US_OK);
    return info.processes;
}

static int wait_for(pid_t child)
{
    int status = -1;

    (void)waitpid(child, &status, 0);
    return status;
}

/* A pipe's end says that the other side is as far as we want it. */
struct signal_pipe {
    int ends[2];
};

static struct signal_pipe new_pipe(void)
{
    struct signal_pipe p;

    assert(pipe2(p.ends, O_CLOEXEC) == 0);
    return p;
}

static void say(const struct signal_pipe *p)
{
    assert(write(p->ends[1], "!", 1) == 1);
}

static void hear(const struct signal_pipe *p)
{
    char byte;

    assert(read(p->ends[0], &byte, 1) == 1);
}

static void close_pipe(const struct signal_pipe *p)
{
    (void)close(p->ends[0]);
    (void)close(p->ends[1]);
}

/* As assert(), and says what the engine said. */
static void must(us_err err)
{
    if (err != US_OK) {
        (void)fprintf(stderr, "endings: %s: %s\n", us_error_name(err), us_last_error());
        abort();
    }
}

/* ---- load ---- */

static uint32_t stop_load; /* 1: the threads of churn() return */

#define HANDFUL 40

/* Through every path: fast, bulk, slow, large, flush. */
static void churn_once(uint64_t i)
{
    void *objects[HANDFUL] = {NULL}, *large;

    for (int k = 0; k < HANDFUL; k++) {
        objects[k] = us_alloc_on(cache, 0, (int)(i + (uint64_t)k) % 2, -1);
    }
    for (int k = 0; k < HANDFUL; k++) {
        if (objects[k] != NULL) {
            must(us_free_on(cache, objects[k], (int)(i / 2) % 2));
        }
    }
    if (us_alloc_bulk(cache, 0, -1, -1, HANDFUL, objects) == US_OK) {
        must(us_free_bulk(cache, HANDFUL, objects, -1));
    }
    large = us_kmalloc(arena, 20000, 0, -1, -1);
    if (large != NULL) {
        must(us_kfree(arena, large, -1));
    }
    if (i % 16 == 0) {
        (void)us_cache_shrink(cache);
    }
}

static void *churn(void *unused)
{
    (void)unused;
    for (uint64_t i = 0; !us_load_relaxed32(&stop_load); i++) {
        churn_once(i);
    }
    return NULL;
}

static void start(pthread_t *threads, int count, void *(*run)(void *))
{
    us_store_relaxed32(&stop_load, 0);
    for (int i = 0; i < count; i++) {
        assert(pthread_create(threads + i, NULL, run, NULL) == 0);
    }
}

static void stop(const pthread_t *threads, int count)
{
    us_store_relaxed32(&stop_load, 1);
    for (int i = 0; i < count; i++) {
        assert(pthread_join(threads[i], NULL) == 0);
    }
}

#ifdef US_TSAN /* it sees one process only, and no thread that is cancelled */
#define ALL 0
#else
#define ALL 1
#endif
/* AddressSanitizer's own locks survive neither a fork beside threads nor a thread that
 * ends in the middle; an emulator knows no robust mutexes, and its main thread never
 * leaves. */
#if defined(__SANITIZE_ADDRESS__) || defined(US_EMULATED)
#define ABRUPT 0
#else
#define ABRUPT 1
#endif
#ifdef US_EMULATED
#define EMULATED 1
#else
#define EMULATED 0
#endif

#endif
