/* SPDX-License-Identifier: MIT */
/*
 * recovery_test.c - a process stopped with a lock in its hand costs nobody more than a
 * moment, a process killed with it costs nothing; and what recovery cannot explain is
 * out of use from then on, and says so.
 */
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/names.h"
#include "share/share.h"

#define OBJECTS 1000

static us_arena *arena;
static us_cache *cache;

static void open_arena(uint32_t cpus)
{
    struct us_arena_config config = {.size = 2 << 20, .cpus = cpus, .nodes = 1};
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
    (void)fprintf(stderr, "recovery: %s\n", finding);
}

static struct us_reaped reap(void)
{
    struct us_reaped reaped;
    us_err err = us_reap(arena, &reaped);

    assert(err == US_OK && reaped.waiting == 0 && reaped.doubtful == 0);
    return reaped;
}

static uint64_t free_pages(void)
{
    struct us_pages_info pages;

    assert(us_pages_stat(arena, 0, &pages) == US_OK);
    return pages.free_pages;
}

/* A child takes these locks and stays stopped until it is killed. */
static pid_t hold(uint32_t *first, uint32_t *second)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        struct us_thread *t = us_thread_self(arena);

        if (us_lock(arena, t, first) == US_OK &&
            (second == NULL || us_lock(arena, t, second) == US_OK)) {
            (void)raise(SIGSTOP);
        }
        _exit(1);
    }
    assert(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    return child;
}

static void end(pid_t child)
{
    (void)kill(child, SIGKILL);
    assert(waitpid(child, NULL, 0) == child);
}

/* As many as there are, again and again: what is in use at once is what it may cost. */
static void work_around(int cpu)
{
    static void *objects[OBJECTS];
    uint64_t before = 0;

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < OBJECTS; i++) {
            objects[i] = us_alloc_on(cache, 0, cpu, -1);
            assert(objects[i] != NULL);
            memset(objects[i], i, 64);
        }
        for (int i = OBJECTS - 1; i >= 0; i--) {
            assert(((unsigned char *)objects[i])[63] == (unsigned char)i);
            assert(us_free_on(cache, objects[i], cpu) == US_OK);
        }
        if (round == 2) {
            before = free_pages();
        }
    }
    assert(free_pages() + 2 >= before);
}

/* ... then its holder is killed, and everything is as it was. */
static void check_after(pid_t child)
{
    end(child);
    assert(reap().processes == 1);
    assert(us_validate(arena, NULL, complain, NULL) == 0);
    assert(us_cache_destroy(arena, "thing") == US_OK);
    assert(free_pages() == 512);
    us_arena_detach(arena);
}

static void a_held_slot_is_gone_around(void)
{
    for (uint32_t cpus = 1; cpus <= 2; cpus++) {
        pid_t child;

        open_arena(cpus);
        child = hold(&us_cpu(cache, 0)->lock, NULL);
        work_around(0);
        check_after(child);
    }
}

static void a_held_list_is_gone_around(void)
{
    pid_t child;

    open_arena(1);
    child = hold(&us_node(cache, 0)->list_lock, NULL);
    work_around(0);
    assert(us_cache_flush(cache, 0) == US_OK); /* to where strays wait */
    check_after(child);
}

static void a_slot_and_its_list_are_gone_around(void)
{
    pid_t child;

    open_arena(1);
    child = hold(&us_cpu(cache, 0)->lock, &us_node(cache, 0)->list_lock);
    work_around(0);
    check_after(child);
}

/* Where there is no other way, the error names the holder, within a bound. */
static void what_cannot_go_around_says_so(void)
{
    struct us_reaped reaped;
    pid_t child;

    open_arena(1);
    child = hold(&us_cpu(cache, 0)->lock, NULL);
    assert(us_cache_flush(cache, 0) == US_ELOCKED);
    assert(strstr(us_last_error(), "participant 1") != NULL);
    assert(us_reap(arena, &reaped) == US_OK && reaped.processes == 0);
    check_after(child);
}

/* A lock of the living keeps a repair waiting, and with it the slot of the dead. */
static void the_dead_wait_for_the_stopped(void)
{
    struct us_reaped reaped;
    pid_t dead, stopped;

    open_arena(1);
    stopped = hold(&us_node(cache, 0)->list_lock, NULL);
    dead = hold(&us_cpu(cache, 0)->lock, NULL);
    end(dead);
    assert(us_reap(arena, &reaped) == US_OK);
    assert(reaped.processes == 0 && reaped.waiting == 1);
    work_around(0);
    end(stopped);
    assert(reap().processes == 2);
    assert(us_validate(arena, NULL, complain, NULL) == 0);
    us_arena_detach(arena);
}

/* A stray is listed by whoever has the lock next. */
static void strays_are_listed_when_the_lock_is_free(void)
{
    void *objects[OBJECTS];
    int status;
    pid_t child;

    open_arena(1);
    child = fork();
    if (child == 0) {
        struct us_thread *t = us_thread_self(arena);

        (void)us_lock(arena, t, &us_node(cache, 0)->list_lock);
        (void)raise(SIGSTOP);
        us_list_unlock(cache, t, us_node(cache, 0));
        _exit(0);
    }
    assert(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    for (int i = 0; i < OBJECTS; i++) {
        objects[i] = us_alloc_on(cache, 0, 0, -1);
    }
    for (int i = 0; i < OBJECTS; i += 2) {
        assert(us_free_on(cache, objects[i], 0) == US_OK);
    }
    assert(us_cache_flush(cache, 0) == US_OK);
    assert(us_load_relaxed32(&us_node(cache, 0)->nr_partial) == 0);
    (void)kill(child, SIGCONT);
    assert(waitpid(child, &status, 0) == child && status == 0);
    assert(us_load_relaxed32(&us_node(cache, 0)->nr_partial) != 0);
    assert(us_validate(arena, NULL, complain, NULL) == 0);
    us_arena_detach(arena);
}

/* Nobody calls for it, nothing is scarce: whoever allocates looks now and then. */
static void the_dead_are_noticed_in_passing(void)
{
    static void *objects[OBJECTS];
    struct us_health health = {0};
    pid_t child;

    open_arena(1);
    child = fork();
    if (child == 0) {
        memset(us_alloc(cache), 'x', 64);
        (void)raise(SIGKILL);
    }
    assert(waitpid(child, NULL, 0) == child);
    for (int round = 0; health.processes == 0; round++) {
        assert(round < 100000);
        for (int i = 0; i < OBJECTS; i++) {
            objects[i] = us_alloc_on(cache, 0, 0, -1);
        }
        for (int i = 0; i < OBJECTS; i++) {
            assert(us_free_on(cache, objects[i], 0) == US_OK);
        }
        assert(us_health(arena, &health) == US_OK);
    }
    assert(health.objects == 1);
    us_arena_detach(arena);
}

/* ---- what cannot be explained ---- */

static void an_impossible_owner_poisons_the_object(void)
{
    struct us_health health;
    void *object, *other;

    open_arena(1);
    object = us_alloc_on(cache, 0, 0, -1);
    other = us_alloc_on(cache, 0, 0, -1);
    us_store_relaxed16(us_tag(cache, us_offset(arena, object)), 0x1234);
    us_store_release32(&cache->shared->suspect, 1);
    (void)reap();
    assert(us_health(arena, &health) == US_OK && health.poisoned_objects == 1);
    assert(us_free(cache, object) == US_EPOISONED);
    assert(us_free(cache, other) == US_OK);
    for (int i = 0; i < OBJECTS; i++) {
        assert(us_alloc_on(cache, 0, 0, -1) != object);
    }
    us_arena_detach(arena);
}

static void a_slab_of_no_order_poisons_itself(void)
{
    struct us_health health;
    uint32_t page;
    void *object;

    open_arena(1);
    object = us_alloc_on(cache, 0, 0, -1);
    page = (uint32_t)(us_offset(arena, object) >> US_PAGE_SHIFT);
    cache->order = cache->min_order = 1; /* as if its block were of another size */
    us_store_release32(&cache->shared->suspect, 1);
    (void)reap();
    cache->order = cache->min_order = 0;
    assert(us_health(arena, &health) == US_OK && health.poisoned_slabs == 1);
    assert(us_free(cache, object) == US_EPOISONED);
    object = us_alloc_on(cache, 0, 0, -1);
    assert(object != NULL && us_offset(arena, object) >> US_PAGE_SHIFT != page);
    assert(us_free(cache, object) == US_OK);
    us_arena_detach(arena);
}

static void pages_that_do_not_tile_poison_the_arena(void)
{
    struct us_cache_config shape = US_CACHE_CONFIG_INIT;
    struct us_reaped reaped;
    struct us_ticket ticket;
    us_arena *again;
    us_cache *other;
    void *object;

    open_arena(1);
    object = us_alloc_on(cache, 0, 0, -1);
    us_store_relaxed64(&arena->pages[arena->first_page].word, US_BLOCK_TAIL);
    us_store_release32(&arena->header->pages_suspect, 1);
    assert(us_reap(arena, &reaped) == US_EPOISONED);
    assert(us_alloc(cache) == NULL && us_last_code() == US_EPOISONED);
    assert(us_free(cache, object) == US_EPOISONED);
    assert(us_kmalloc(arena, 100000, 0, -1, -1) == NULL &&
           us_last_code() == US_EPOISONED);
    assert(us_kmalloc(arena, 100, 0, -1, -1) == NULL && us_last_code() == US_EPOISONED);
    shape.object_size = 8;
    assert(us_cache_create(arena, "other", &shape, &other) == US_EPOISONED);
    assert(us_send(arena, object, &ticket) != US_OK);
    arena->ino++; /* as another process sees it */
    assert(us_arena_attach_fd(us_arena_fd(arena), &again) == US_EPOISONED);
    arena->ino--;
    us_arena_detach(arena);
}

int main(void)
{
    a_held_slot_is_gone_around();
    a_held_list_is_gone_around();
    a_slot_and_its_list_are_gone_around();
    what_cannot_go_around_says_so();
    the_dead_wait_for_the_stopped();
    strays_are_listed_when_the_lock_is_free();
    the_dead_are_noticed_in_passing();
    an_impossible_owner_poisons_the_object();
    a_slab_of_no_order_poisons_itself();
    pages_that_do_not_tile_poison_the_arena();
    return 0;
}
