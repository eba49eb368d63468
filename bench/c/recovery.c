/* SPDX-License-Identifier: MIT */
/*
 * recovery.c - how long it takes until all that a killed process had is back.
 *
 * A child fills the arena with n objects and is killed; measured is the one us_reap()
 * that gives them back, zeroed: "ns" the first one in this process, which has never
 * touched a page of the dead one's and takes a page fault for each; "warm_ns" those
 * that follow; "cpu_ns" the processor's time of the first, which neighbours leave
 * alone.
 *
 * at=rest: killed between two calls; at=work: while it allocates and frees as fast as
 * it can, so that it often dies inside the allocator and its cache has to be made anew
 * ("caches": how often).
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

/* The child: never returns. */
static void live_and_work(struct pool *p, uint64_t n, bool works, int ready)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint64_t i = 0; i < n; i++) {
        void *object = us_alloc(p->cache);

        if (object == NULL) {
            die("object %llu: %s", (unsigned long long)i, us_last_error());
        }
        touch(object, i);
    }
    if (write(ready, "", 1) != 1) {
        die("nobody waits for the child");
    }
    while (works) {
        void *objects[64];

        for (unsigned i = 0; i < 64; i++) {
            objects[i] = us_alloc(p->cache);
        }
        for (unsigned i = 0; i < 64; i++) {
            us_free(p->cache, objects[i]);
        }
    }
    for (;;) {
        pause();
    }
}

static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void kill_one(struct pool *p, uint64_t n, bool works)
{
    int ready[2], status;
    char byte;
    pid_t child;

    if (pipe(ready) != 0 || (child = fork()) < 0) {
        die("no child");
    }
    if (child == 0) {
        live_and_work(p, n, works, ready[1]);
    }
    (void)close(ready[1]);
    if (read(ready[0], &byte, 1) != 1) {
        die("the child died too early");
    }
    (void)close(ready[0]);
    if (works) {
        (void)usleep(2000);
    }
    (void)kill(child, SIGKILL);
    (void)waitpid(child, &status, 0);
}

void workload_recovery(enum kind kind)
{
    uint64_t n = option("n", 1000), batches = option("batches", 5);
    bool works = option_is("at", "work");
    struct samples cold = {0}, warm = {0}, cpu = {0}, caches = {0};
    struct pool pool;

    if (kind != USLUB) {
        die("recovery: no other allocator here can be asked");
    }
    arena_open(kind, option("mib", 64) << 20, UINT64_MAX);
    pool_open(kind, &pool, option("size", 64), 0);
    for (uint64_t i = 0; i < batches; i++) {
        struct us_reaped reaped;
        uint64_t start, before;

        kill_one(&pool, n, works);
        before = cpu_ns();
        start = now_ns();
        if (us_reap(arena, &reaped) != US_OK) {
            die("%s", us_last_error());
        }
        samples_add(i == 0 ? &cold : &warm, now_ns() - start, 1);
        if (i == 0) {
            samples_add(&cpu, cpu_ns() - before, 1);
        }
        if (reaped.processes != 1 || reaped.objects < n || reaped.doubtful != 0) {
            die("recovered %u processes and %llu objects, %u caches in doubt",
                reaped.processes, (unsigned long long)reaped.objects, reaped.doubtful);
        }
        samples_add(&caches, reaped.caches, 1);
    }
    samples_print("ns", &cold);
    samples_print("warm_ns", &warm);
    samples_print("cpu_ns", &cpu);
    samples_print("caches", &caches);
}
