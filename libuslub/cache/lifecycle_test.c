/* SPDX-License-Identifier: MIT */
/*
 * lifecycle_test.c - caches that come and go under load, forks, descriptors that are
 * passed on, and words that somebody has scribbled over: errors, never a hang or a wild
 * access.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/names.h"

static us_arena *arena;

static void open_arena(void)
{
    struct us_arena_config config = {.size = 4 << 20, .cpus = 2, .nodes = 1};
    us_err err = us_arena_create(NULL, &config, &arena);

    assert(err == US_OK);
}

static us_cache *make(const char *name, uint64_t size, uint32_t flags)
{
    struct us_cache_config config = US_CACHE_CONFIG_INIT;
    us_cache *s = NULL;

    config.object_size = size;
    config.flags = flags;
    return us_cache_create(arena, name, &config, &s) == US_OK ? s : NULL;
}

/* ---- come and go ---- */

static uint32_t stop;

static void *allocate(void *seed)
{
    uint64_t sizes[] = {8, 64, 200};

    for (uint64_t i = (uintptr_t)seed; !us_load_relaxed32(&stop); i++) {
        us_cache *s = make("mortal", sizes[i % 3], US_FREELIST_RANDOM);
        void *object = s == NULL ? NULL : us_alloc(s);

        if (object != NULL) {
            memset(object, 0xff, 8);
            (void)us_free(s, object);
        }
    }
    return NULL;
}

static bool count_name(const char *name, void *arg)
{
    (void)name;
    ++*(int *)arg;
    return true;
}

static void *list(void *unused)
{
    while (!us_load_relaxed32(&stop)) {
        us_cache *s = make("root", 64, US_MERGE);
        int names = 0;

        if (s != NULL) {
            (void)us_cache_aliases(s, count_name, &names);
        }
    }
    return unused;
}

static void print_finding(const char *finding, void *arg)
{
    (void)arg;
    (void)fprintf(stderr, "lifecycle: %s\n", finding);
}

static void caches_come_and_go_under_load(void)
{
    pthread_t ids[3];
    int failed = 0;

    open_arena();
    us_store_relaxed32(&stop, 0);
    for (uintptr_t i = 0; i < 2; i++) {
        failed |= pthread_create(&ids[i], NULL, allocate, (void *)i);
    }
    failed |= pthread_create(&ids[2], NULL, list, NULL);
    assert(failed == 0);
    for (int i = 0; i < 40000; i++) {
        (void)us_cache_destroy(arena, "mortal");
        (void)make("alias", 64, US_MERGE);
        (void)us_cache_destroy(arena, "alias");
    }
    us_store_relaxed32(&stop, 1);
    for (int i = 0; i < 3; i++) {
        (void)pthread_join(ids[i], NULL);
    }
    assert(us_validate(arena, NULL, print_finding, NULL) == 0);
    (void)us_cache_destroy(arena, "mortal");
    (void)us_cache_destroy(arena, "root");
    us_arena_detach(arena);
}

/* ---- fork, descriptors ---- */

static us_cache *forked;

static void *use_it(void *unused)
{
    us_err err = us_free(forked, us_alloc(forked));

    assert(err == US_OK);
    return unused;
}

/* The thread that forks has never used an arena: in the child it must not be nobody. */
static void a_child_of_an_idle_thread_registers(void)
{
    pthread_t id;
    int status = 0, failed;
    pid_t child;

    open_arena();
    forked = make("forked", 64, 0);
    assert(forked != NULL);
    failed = pthread_create(&id, NULL, use_it, NULL);
    assert(failed == 0);
    (void)pthread_join(id, NULL);
    us_tls.id = US_TLS_NOBODY; /* as if only the other thread had been here */
    child = fork();
    if (child == 0) {
        void *object = us_alloc(forked);

        _exit(object != NULL && us_free(forked, object) == US_OK &&
                      us_free(forked, object) == US_EDOUBLEFREE
                  ? 0
                  : 1);
    }
    (void)waitpid(child, &status, 0);
    assert(status == 0);
    us_arena_detach(arena);
}

/* Holds what its parent was given by us_arena_fd(), and nothing else, until `end`
 * closes. */
static void inherit(int begun, int end)
{
    char byte = 0;

    (void)close(arena->fd);
    _exit(write(begun, &byte, 1) != 1 || read(end, &byte, 1) != 0);
}

static void a_passed_descriptor_keeps_nobody_alive(void)
{
    struct us_process_info people[4];
    int begun[2], end[2], status, failed;
    uint32_t count;
    pid_t child;

    open_arena();
    failed = pipe(begun) | pipe(end);
    assert(failed == 0);
    child = fork();
    if (child == 0) {
        us_cache *s = make("child", 64, 0);
        bool took_part = us_alloc(s) != NULL && dup(us_arena_fd(arena)) >= 0;
        char byte = 1;

        (void)close(end[1]);
        if (fork() == 0) {
            inherit(begun[1], end[0]);
        }
        /* Leaves without a word, once its heir has opened the file for itself. */
        _exit(read(begun[0], &byte, 1) != 1 || byte != 0 || !took_part);
    }
    (void)waitpid(child, &status, 0);
    assert(status == 0);
    count = us_arena_processes(arena, people, 4);
    assert(count == 3 && people[0].alive && !people[1].alive && !people[2].alive);
    for (int i = 0; i < 2; i++) {
        (void)close(begun[i]);
        (void)close(end[i]);
    }
    us_arena_detach(arena);
}

/* ---- scribbled words ---- */

/* ... once; then the lists are made anew from the owner tags. */
static void a_freelist_that_leads_to_itself_is_an_error(void)
{
    void *objects[8];
    uint64_t x;
    us_cache *s;

    open_arena();
    s = make("cycle", 64, 0);
    for (int i = 0; i < 8; i++) {
        objects[i] = us_alloc_on(s, 0, 0, -1);
    }
    x = us_offset(arena, objects[3]);
    assert(us_free_on(s, objects[3], 0) == US_OK);
    us_link_set(s, x, x);
    assert(us_alloc_on(s, 0, 0, -1) == objects[3]);
    assert(us_alloc_on(s, 0, 0, -1) == NULL && us_last_code() == US_ECORRUPT);
    us_reap_soon(arena);
    assert(us_validate(arena, NULL, NULL, NULL) == 0);
    assert(us_alloc_bulk(s, 0, 0, -1, 3, objects) == US_OK);
    assert(us_cache_flush(s, 0) == US_OK);
    us_arena_detach(arena);
}

static bool any_cache(us_cache *s, void *arg)
{
    struct us_cache_info info;

    (void)arg;
    (void)us_cache_stat(s, &info);
    return true;
}

static void damaged_tables_are_errors(void)
{
    struct us_kmem_cache *shared;
    struct us_page *p;
    us_cache *s;
    void *object;

    open_arena();
    s = make("damaged", 64, US_FREELIST_RANDOM);
    object = us_alloc_on(s, 0, 0, -1);
    shared = s->shared;
    arena->header->name_high = UINT32_MAX;
    shared->name = UINT32_MAX / 2;
    (void)us_cache_each(arena, any_cache, NULL);
    (void)us_cache_aliases(s, count_name, &(int){0});
    (void)us_validate(arena, NULL, NULL, NULL);

    assert(us_cache_flush(s, 0) == US_OK);
    p = arena->pages + us_node(s, 0)->head;
    p->slab.hi = (p->slab.hi & ~0xffffULL) | (p->slab.hi >> 16 & 0x7fff); /* full */
    assert(us_cache_shrink(s) == US_ECORRUPT);

    p->cache_gen++;
    assert(us_free(s, (char *)object + 3) != US_OK);

    shared->image = shared->shuffle = UINT64_MAX / 2;
    us_node(s, 0)->head = us_node(s, 0)->tail = us_node(s, 0)->nr_partial = 0;
    us_node(s, 0)->nr_slabs = 0;
    arena->header->name_high = 1;
    assert(us_cache_destroy(arena, "damaged") == US_OK);
    us_arena_detach(arena);
}

int main(void)
{
    caches_come_and_go_under_load();
#ifndef US_TSAN /* it sees one process, and its 16-byte swap is a lock of that process \
                 */
    a_child_of_an_idle_thread_registers();
    a_passed_descriptor_keeps_nobody_alive();
#else
    (void)a_child_of_an_idle_thread_registers;
    (void)a_passed_descriptor_keeps_nobody_alive;
#endif
    a_freelist_that_leads_to_itself_is_an_error();
    damaged_tables_are_errors();
    return 0;
}
