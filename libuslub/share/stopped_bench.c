/* SPDX-License-Identifier: MIT */
/*
 * stopped_bench.c - what others feel while the holder of a lock is stopped.
 *
 *   stopped_bench LOCK OPERATIONS       LOCK: none slot list cache reaper
 *
 * A child takes the lock by the engine's own function and stops itself (SIGSTOP). This
 * process then allocates and frees 64-byte objects in batches that are large enough for
 * every slow path, measures each call, and prints one JSON object: median, 99th
 * percentile and maximum of either, in nanoseconds, and how many calls failed. It is
 * made for bench/run.py, and is here because it needs the inside of the engine.
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cache/cache.h"

#define BATCH 4000

static _Noreturn void die(const char *what)
{
    (void)fprintf(stderr, "stopped_bench: %s: %s\n", what, us_last_error());
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the child ---- */

static bool take(struct us_arena *a, struct us_cache *s, const char *lock)
{
    struct us_thread *t = us_thread_self(a);
    struct flock reaper = {
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = (off_t)(US_LOCK_BASE + US_PROCESSES),
        .l_len = 1,
    };

    if (t == NULL) {
        return false;
    }
    if (strcmp(lock, "slot") == 0) {
        return us_lock(a, t, &us_cpu(s, us_cpu_slot(a))->lock) == US_OK;
    }
    if (strcmp(lock, "list") == 0) {
        return us_lock(a, t, &us_node(s, 0)->list_lock) == US_OK;
    }
    if (strcmp(lock, "cache") == 0) {
        return us_lock(a, t, &a->header->cache_lock) == US_OK;
    }
    if (strcmp(lock, "reaper") == 0) {
        return fcntl(a->fd, F_OFD_SETLK, &reaper) == 0;
    }
    return strcmp(lock, "none") == 0;
}

static pid_t stop_a_holder(struct us_arena *a, struct us_cache *s, const char *lock)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!take(a, s, lock)) {
            die("cannot take the lock");
        }
        (void)raise(SIGSTOP);
        _exit(1);
    }
    if (child < 0 || waitpid(child, &status, WUNTRACED) != child ||
        !WIFSTOPPED(status)) {
        die("no stopped child");
    }
    return child;
}

/* ---- the others ---- */

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void print(const char *name, uint64_t *ns, size_t count)
{
    qsort(ns, count, sizeof(*ns), by_size);
    printf("\"%s_p50_ns\": [%llu], \"%s_p99_ns\": [%llu], \"%s_max_ns\": [%llu], ",
           name, (unsigned long long)ns[count / 2], name,
           (unsigned long long)ns[count - count / 100 - 1], name,
           (unsigned long long)ns[count - 1]);
}

struct record {
    uint64_t *alloc_ns, *free_ns;
    size_t count, failed;
};

/* Allocates a batch and frees it from both ends, so that slabs fill and empty. */
static void batch(struct us_cache *s, struct record *r)
{
    static void *objects[BATCH];

    for (size_t i = 0; i < BATCH; i++) {
        uint64_t start = now_ns();

        objects[i] = us_alloc(s);
        r->alloc_ns[r->count + i] = now_ns() - start;
        r->failed += objects[i] == NULL;
    }
    for (size_t i = 0; i < BATCH; i++) {
        void *object = objects[i % 2 == 0 ? i / 2 : BATCH - 1 - i / 2];
        uint64_t start = now_ns();
        us_err err = object == NULL ? US_OK : us_free(s, object);

        r->free_ns[r->count + i] = now_ns() - start;
        r->failed += err != US_OK;
    }
    r->count += BATCH;
}

/* Holder and others on one CPU slot. */
static void stay_here(void)
{
    cpu_set_t set;
    int cpu = sched_getcpu();

    CPU_ZERO(&set);
    CPU_SET((size_t)(cpu < 0 ? 0 : cpu), &set);
    (void)sched_setaffinity(0, sizeof(set), &set);
}

int main(int argc, char **argv)
{
    struct us_arena_config config = {.size = 64u << 20, .keep = UINT64_MAX};
    struct us_cache_config of = US_CACHE_CONFIG_INIT;
    struct record r = {0};
    size_t wanted;
    us_arena *a;
    us_cache *s;
    pid_t child;

    if (argc != 3) {
        (void)fputs("stopped_bench LOCK OPERATIONS\n", stderr);
        return 2;
    }
    wanted = (size_t)strtoull(argv[2], NULL, 10);
    stay_here();
    of.object_size = 64;
    if (us_arena_create(NULL, &config, &a) != US_OK ||
        us_cache_create(a, "bench", &of, &s) != US_OK) {
        die("no arena");
    }
    r.alloc_ns = calloc(wanted + BATCH, sizeof(*r.alloc_ns));
    r.free_ns = calloc(wanted + BATCH, sizeof(*r.free_ns));
    if (r.alloc_ns == NULL || r.free_ns == NULL) {
        die("no memory");
    }
    memset(r.alloc_ns, 1, (wanted + BATCH) * sizeof(*r.alloc_ns)); /* faults now */
    memset(r.free_ns, 1, (wanted + BATCH) * sizeof(*r.free_ns));
    batch(s, &r); /* slabs are there, the thread is known */
    r.count = r.failed = 0;
    child = stop_a_holder(a, s, argv[1]);
    while (r.count < wanted) {
        batch(s, &r);
    }
    (void)kill(child, SIGKILL);
    (void)waitpid(child, NULL, 0);
    printf("{");
    print("alloc", r.alloc_ns, r.count);
    print("free", r.free_ns, r.count);
    printf("\"failed\": [%zu]}\n", r.failed);
    return 0;
}
