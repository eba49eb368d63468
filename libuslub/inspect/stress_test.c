/* SPDX-License-Identifier: MIT */
/*
 * stress_test.c - threads and processes at once on few caches and few CPU slots, so
 * that they meet: allocate, free here, hand over and free there, bulk, flush, shrink.
 * At the end everything is freed and every invariant must hold.
 *
 *   stress_test [operations per thread] [threads] [processes]
 */
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/atomic.h"
#include "uslub/uslub.h"

#define SLOTS                                                                          \
    512          /* places where objects wait to be freed by anybody in their process */
#define RING 256 /* offsets that wait to be adopted by anybody */

static us_arena *arena;
static us_cache *caches[3];
static unsigned long operations = 250000;
static int threads = 4;
#ifdef US_TSAN
/* It sees one process, and its 16-byte swap is a lock of that process. */
static int processes = 1;
#else
static int processes = 3;
#endif

/* What processes hand each other: offset << 16 | owner, 0: empty; lives in an object.
 */
static uint64_t *ring;
static uint64_t slots[SLOTS]; /* offsets */

static void check(us_err err)
{
    if (err != US_OK) {
        (void)fprintf(stderr, "stress: %s: %s\n", us_error_name(err), us_last_error());
        abort();
    }
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(*state >> 33);
}

static us_cache *cache_of(const void *object)
{
    struct us_object_info info;

    check(us_object_stat(arena, object, &info));
    return info.cache;
}

/* Fills an object with its own offset: two owners at once would see it change. */
static void mark(void *object, uint64_t mine)
{
    memcpy(object, &mine, sizeof(mine));
}

static void expect_mark(const void *object, uint64_t mine)
{
    uint64_t found;

    memcpy(&found, object, sizeof(found));
    if (found != mine) {
        (void)fprintf(stderr, "stress: object at 0x%llx was changed under its owner\n",
                      (unsigned long long)us_offset(arena, object));
        abort();
    }
}

static void release(void *object, int cpu)
{
    expect_mark(object, us_offset(arena, object));
    check(us_free_on(cache_of(object), object, cpu));
}

static void give_away(void *object)
{
    uint64_t word = us_offset(arena, object) << 16 | us_owner(arena);
    uint64_t *place = ring + (us_offset(arena, object) >> 6) % RING, seen = 0;

    check(us_move(arena, object));
    if (!us_cas_acq_rel64(place, &seen, word)) {
        check(us_adopt(arena, word >> 16, (uint16_t)word));
        release(object, -1);
    }
}

static void take_over(uint64_t *random)
{
    uint64_t word = us_exchange_acq_rel64(ring + next_random(random) % RING, 0);

    if (word != 0) {
        check(us_adopt(arena, word >> 16, (uint16_t)word));
        release(us_pointer(arena, word >> 16), -1);
    }
}

static void many_at_once(uint64_t *random, us_cache *s)
{
    void *objects[40];
    size_t n = 1 + next_random(random) % 40;

    if (us_alloc_bulk(s, 0, -1, -1, n, objects) == US_OK) {
        for (size_t i = 0; i < n; i++) {
            mark(objects[i], us_offset(arena, objects[i]));
        }
        check(us_free_bulk(s, n, objects, -1));
    }
}

static void *work(void *seed)
{
    uint64_t random = (uint64_t)(uintptr_t)seed * 77 + (uint64_t)getpid();

    for (unsigned long i = 0; i < operations; i++) {
        us_cache *s = caches[next_random(&random) % 3];
        uint32_t dice = next_random(&random) % 100;
        void *object = us_alloc_on(s, 0, (int)(next_random(&random) % 2), -1);

        assert(object != NULL);
        mark(object, us_offset(arena, object));
        if (dice < 70) {
            uint64_t other = us_exchange_acq_rel64(&slots[next_random(&random) % SLOTS],
                                                   us_offset(arena, object));

            if (other != 0) {
                release(us_pointer(arena, other), dice & 1 ? -1 : (int)(dice / 2 % 2));
            }
        } else if (dice < 90) {
            give_away(object);
            take_over(&random);
        } else {
            release(object, -1);
            if (dice < 97) {
                many_at_once(&random, s);
            } else if (dice == 97) {
                check(us_cache_flush(s, (int)(next_random(&random) % 2)));
            } else if (dice == 98) {
                check(us_cache_shrink(s));
            }
        }
    }
    return NULL;
}

static void run_process(void)
{
    pthread_t ids[64];

    for (long i = 0; i < threads; i++) {
        int failed = pthread_create(&ids[i], NULL, work, (void *)(i + 1));

        assert(failed == 0);
    }
    for (int i = 0; i < threads; i++) {
        (void)pthread_join(ids[i], NULL);
    }
    for (int i = 0; i < SLOTS; i++) {
        if (slots[i] != 0) {
            release(us_pointer(arena, slots[i]), -1);
            slots[i] = 0;
        }
    }
}

static void print_finding(const char *finding, void *arg)
{
    (void)arg;
    (void)fprintf(stderr, "stress: %s\n", finding);
}

/* What nobody adopted belongs to the one who gave it away; he must free it before he
 * goes. */
static void take_back(void)
{
    for (int i = 0; i < RING; i++) {
        uint64_t word = us_load_acquire64(ring + i);

        if (word != 0 && (uint16_t)word == us_owner(arena) &&
            us_cas_acq_rel64(ring + i, &word, 0)) {
            check(us_adopt(arena, word >> 16, us_owner(arena)));
            release(us_pointer(arena, word >> 16), -1);
        }
    }
}

static void make_arena(void)
{
    struct us_arena_config config = {
        .size = 64 << 20, .cpus = 2, .nodes = 2, .keep = 1 << 20};
    static const struct {
        const char *name;
        uint64_t size;
        uint32_t flags;
    } wanted[3] = {{"small", 64, US_FREELIST_RANDOM},
                   {"odd", 360, US_FREELIST_HARDENED},
                   {"plain", 1024, US_NO_CPU_PARTIAL}};

    check(us_arena_create(NULL, &config, &arena));
    for (int i = 0; i < 3; i++) {
        struct us_cache_config cache = US_CACHE_CONFIG_INIT;

        cache.object_size = wanted[i].size;
        cache.flags = wanted[i].flags;
        check(us_cache_create(arena, wanted[i].name, &cache, &caches[i]));
    }
    ring = us_kmalloc(arena, RING * sizeof(*ring), US_GFP_ZERO, -1, -1);
    assert(ring != NULL);
}

int main(int argc, char **argv)
{
    uint64_t findings;
    pid_t children[16];

    operations = argc > 1 ? strtoul(argv[1], NULL, 10) : operations;
    threads = argc > 2 ? atoi(argv[2]) : threads;
    processes = argc > 3 ? atoi(argv[3]) : processes;
    make_arena();
    for (int i = 1; i < processes; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            run_process();
            take_back();
            us_arena_detach(arena);
            _exit(0);
        }
    }
    run_process();
    for (int i = 1; i < processes; i++) {
        int status = 0;

        (void)waitpid(children[i], &status, 0);
        if (status != 0) {
            (void)fprintf(stderr, "stress: a process failed with status 0x%x\n",
                          status);
            return 1;
        }
    }
    take_back();
    findings = us_validate(arena, NULL, print_finding, NULL);
    check(us_kfree(arena, ring, -1));
    for (int i = 0; i < 3; i++) {
        struct us_cache_info info;

        check(us_cache_stat(caches[i], &info));
        check(us_cache_destroy(arena, info.name));
    }
    findings += us_validate(arena, NULL, print_finding, NULL);
    us_arena_detach(arena);
    (void)printf("stress: %lu operations, %llu findings\n",
                 operations * (unsigned long)threads * (unsigned long)processes,
                 (unsigned long long)findings);
    return findings != 0;
}
