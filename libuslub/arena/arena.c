/* SPDX-License-Identifier: MIT */
/*
 * arena.c - attach, detach, and this process's registry of attachments.
 *
 * Attaching believes nothing: the header is read into private memory, checked, and
 * everything that can be computed from it is computed again. One attachment per process
 * and file: attaching again only counts.
 */
#include "arena/handle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX US_ARENA_DIRECTORY "/uslub."

static pthread_mutex_t registry_mutex;
static pthread_once_t registry_once = PTHREAD_ONCE_INIT, fork_once = PTHREAD_ONCE_INIT;
static struct us_arena *registry;
static uint64_t last_id;

/* ---- private mutexes ---- */

/*
 * Robust: a thread that is cancelled, or vanishes, inside a call must not keep the
 * others of its process for ever. What they guard is whole between any two stores, or a
 * count of references that may be one too high then.
 */
static void init_mutex(pthread_mutex_t *mutex, int type)
{
    pthread_mutexattr_t attributes;

    (void)pthread_mutexattr_init(&attributes);
    (void)pthread_mutexattr_settype(&attributes, type);
#ifndef US_EXPLORE /* the explorer puts mutexes back that dead actors held */
    (void)pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
#endif
    (void)pthread_mutex_init(mutex, &attributes);
    (void)pthread_mutexattr_destroy(&attributes);
}

void us_mutex_lock(pthread_mutex_t *mutex)
{
    if (pthread_mutex_lock(mutex) == EOWNERDEAD) {
        (void)pthread_mutex_consistent(mutex);
    }
}

bool us_mutex_trylock(pthread_mutex_t *mutex)
{
    int failed = pthread_mutex_trylock(mutex);

    if (failed == EOWNERDEAD) {
        failed = pthread_mutex_consistent(mutex);
    }
    return failed == 0;
}

/* Recursive: registering may have to recover somebody, which registers a thread. */
static void init_registry(void)
{
    init_mutex(&registry_mutex, PTHREAD_MUTEX_RECURSIVE);
}

static void init_locks(struct us_arena *a)
{
    init_mutex(&a->handles_lock, PTHREAD_MUTEX_NORMAL);
    init_mutex(&a->hold_lock, PTHREAD_MUTEX_NORMAL);
    init_mutex(&a->reap_lock, PTHREAD_MUTEX_NORMAL);
}

void us_registry_lock(void)
{
    (void)pthread_once(&registry_once, init_registry);
    us_mutex_lock(&registry_mutex);
}

void us_registry_unlock(void)
{
    (void)pthread_mutex_unlock(&registry_mutex);
}

uint64_t us_registry_next_id(void)
{
    return ++last_id;
}

struct us_arena *us_registry_find(uint64_t id)
{
    struct us_arena *a = registry;

    while (a != NULL && us_self_id(a->self) != id) {
        a = a->next;
    }
    return a;
}

/* ---- fork ---- */

/*
 * The child will hold what we hold, so it must be a participant before it exists: it
 * gets a slot whose lock belongs to a description that only the child keeps. Without a
 * free slot the child is nobody here, and what it inherited is not its own.
 */
static us_err reserve(struct us_arena *a)
{
    us_err err = us_process_reserve(a, &a->fork_slot, &a->fork_fd);

    if (err == US_ELIMIT) { /* perhaps the dead have all of them */
        us_reap_now(a);
        err = us_process_reserve(a, &a->fork_slot, &a->fork_fd);
    }
    return err;
}

static void before_fork(void)
{
    us_registry_lock();
    for (struct us_arena *a = registry; a != NULL; a = a->next) {
        a->fork_fd = -1;
        if (us_self_id(a->self) != 0 && reserve(a) == US_OK &&
            us_share_all(a, a->fork_slot) != US_OK) {
            (void)close(a->fork_fd); /* whoever meets the slot finds it dead */
            a->fork_fd = -1;
        }
    }
    for (struct us_arena *a = registry; a != NULL; a = a->next) {
        us_mutex_lock(&a->reap_lock);
        us_mutex_lock(&a->hold_lock);
        us_mutex_lock(&a->handles_lock);
    }
}

static void after_fork_in_parent(void)
{
    for (struct us_arena *a = registry; a != NULL; a = a->next) {
        if (a->fork_fd >= 0) {
            (void)close(a->fork_fd);
            a->fork_fd = -1;
        }
        (void)pthread_mutex_unlock(&a->handles_lock);
        (void)pthread_mutex_unlock(&a->hold_lock);
        (void)pthread_mutex_unlock(&a->reap_lock);
    }
    us_registry_unlock();
}

/* The child must not keep the parent's life lock alive, nor the descriptor it is on. */
static void after_fork_in_child(void)
{
    char path[64];

    us_threads_forget();
    for (struct us_arena *a = registry; a != NULL; a = a->next) {
        bool heir = a->fork_fd >= 0;
        int fd = a->fork_fd;

        memset(a->self, 0, sizeof(*a->self)); /* the kernel has, an emulator may not */
        a->outbox_next = 0; /* of the parent's; ours is committed from its start */
        if (!heir) {
            free(a->extra.entries);
            a->extra = (struct us_refs){0};
            (void)snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", a->fd);
            fd = open(path, O_RDWR | O_CLOEXEC);
        }
        if (fd < 0 || dup3(fd, a->fd, O_CLOEXEC) < 0) {
            (void)close(a->fd);
            a->fd = -1; /* commits will say so */
            heir = false;
        }
        if (fd >= 0) {
            (void)close(fd);
        }
        a->fork_fd = -1;
        if (heir) {
            us_process_become(a, a->fork_slot);
        }
        init_locks(a);
    }
    /* A mutex knows its owner by a number that the child does not have. */
    init_registry();
}

static void install_handlers(void)
{
    (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void us_arena_install_fork_handlers(void)
{
    (void)pthread_once(&fork_once, install_handlers);
}

us_err us_arena_poisoned(const struct us_arena *a)
{
    return us_fail(
        US_EPOISONED,
        "arena '%s' is poisoned: its pages contradict each other and recovery "
        "could not explain it; save what you need and recreate the arena",
        us_arena_shown(a->name));
}

/* ---- names ---- */

us_err us_arena_path(const char *name, char *path, size_t size)
{
    size_t length = name == NULL ? 0 : strnlen(name, US_ARENA_NAME_MAX + 1);

    if (length == 0 || length > US_ARENA_NAME_MAX) {
        return us_fail(US_EBADNAME, "arena name of %s%zu bytes: 1 to %d are allowed",
                       length > US_ARENA_NAME_MAX ? "more than " : "",
                       length > US_ARENA_NAME_MAX ? (size_t)US_ARENA_NAME_MAX : length,
                       US_ARENA_NAME_MAX);
    }
    for (size_t i = 0; i < length; i++) {
        if (name[i] == '/' || (unsigned char)name[i] < 0x20 || name[i] == 0x7f) {
            return us_fail(US_EBADNAME,
                           "arena name has byte 0x%02x at %zu: slashes and control "
                           "characters are not allowed",
                           (unsigned char)name[i], i);
        }
    }
    (void)snprintf(path, size, PREFIX "%s", name);
    return US_OK;
}

const char *us_arena_shown(const char *name)
{
    return name == NULL ? "(anonymous)" : name;
}

/* ---- mapping ---- */

/* Fills in what every access needs; the file is mapped, config and layout are known. */
static void open_view(struct us_arena *a)
{
    a->header = (struct us_header *)(void *)a->base;
    a->data_start = a->at.data;
    a->data_bytes = a->at.data_pages << US_PAGE_SHIFT;
    a->first_page = a->at.first_page;
    a->end_page = a->first_page + (uint32_t)a->at.data_pages;
    a->pages = (struct us_page *)us_at(a, a->at.pages) - a->first_page;
    a->cpus = a->config.cpus;
    a->nodes = a->config.nodes;
    for (uint32_t from = 0; from < a->nodes; from++) {
        for (uint32_t i = 0; i < a->nodes; i++) {
            uint32_t place = i;

            /* Insertion sort by distance; equal ones stay in order of their numbers. */
            while (place > 0 && a->config.distance[from][a->zonelist[from][place - 1]] >
                                    a->config.distance[from][i]) {
                a->zonelist[from][place] = a->zonelist[from][place - 1];
                place--;
            }
            a->zonelist[from][place] = i;
        }
    }
}

/*
 * A mapping keeps the description alive that it was made through, in children too: the
 * life lock must be on another one.
 */
static us_err fresh_description(struct us_arena *a)
{
    char path[64];
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", a->fd);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || dup3(fd, a->fd, O_CLOEXEC) < 0) {
        return us_fail_errno(US_ESYSTEM, "arena '%s': cannot be opened again", a->name);
    }
    (void)close(fd);
    return US_OK;
}

us_err us_arena_map(struct us_arena *a)
{
    int access = a->looking ? PROT_READ : PROT_READ | PROT_WRITE;
    void *base = mmap(NULL, a->at.end, access, MAP_SHARED, a->fd, 0);
    void *self;

    if (base == MAP_FAILED) {
        return us_fail_errno(US_ENOMEM, "arena '%s': cannot map %llu bytes", a->name,
                             (unsigned long long)a->at.end);
    }
    self = mmap(NULL, US_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                -1, 0);
    a->handles = calloc((size_t)a->config.caches_max + 1, sizeof(struct us_cache *));
    if (self == MAP_FAILED || madvise(self, US_PAGE_SIZE, MADV_WIPEONFORK) != 0 ||
        a->handles == NULL) {
        us_err err = us_fail_errno(US_ENOMEM, "arena '%s': no private memory", a->name);

        (void)munmap(base, a->at.end);
        if (self != MAP_FAILED) {
            (void)munmap(self, US_PAGE_SIZE);
        }
        free(a->handles);
        a->handles = NULL;
        return err;
    }
    a->base = base;
    a->self = (struct us_self *)(void *)((char *)self + US_SELF_COLOUR);
    open_view(a);
    return fresh_description(a);
}

struct us_arena *us_arena_handle_new(const char *name, int fd)
{
    struct us_arena *a = calloc(1, sizeof(*a));

    if (a == NULL) {
        us_fail(US_ENOMEM, "arena '%s': no memory for its handle",
                us_arena_shown(name));
        return NULL;
    }
    (void)snprintf(a->name, sizeof(a->name), "%s", name == NULL ? "" : name);
    init_locks(a);
    a->fork_fd = -1;
    a->fd = fd;
    a->passed_fd = -1;
    a->refs = 1;
    return a;
}

/* Undoes us_arena_handle_new() and us_arena_map(). Does not close the descriptor. */
void us_arena_handle_drop(struct us_arena *a)
{
    if (a->base != NULL) {
        (void)munmap(a->base, a->at.end);
        (void)munmap((char *)a->self - US_SELF_COLOUR, US_PAGE_SIZE);
    }
    if (a->handles != NULL) {
        for (uint32_t id = 0; id <= a->config.caches_max; id++) {
            if (a->handles[id] != NULL) {
                a->drop_handle(a->handles[id]);
            }
        }
    }
    free(a->handles);
    (void)pthread_mutex_destroy(&a->handles_lock);
    (void)pthread_mutex_destroy(&a->hold_lock);
    (void)pthread_mutex_destroy(&a->reap_lock);
    free(a->extra.entries);
    free(a);
}

void us_arena_enter_registry(struct us_arena *a)
{
    struct stat st;

    if (fstat(a->fd, &st) == 0) {
        a->dev = st.st_dev;
        a->ino = st.st_ino;
    }
    a->next = registry;
    registry = a;
}

static struct us_arena *already_attached(const struct stat *st)
{
    for (struct us_arena *a = registry; a != NULL; a = a->next) {
        if (a->dev == st->st_dev && a->ino == st->st_ino) {
            a->refs++;
            return a;
        }
    }
    return NULL;
}

/* ---- attach ---- */

us_err us_arena_check_file(const char *name, const struct stat *st)
{
    if (!S_ISREG(st->st_mode)) {
        return us_fail(US_ECORRUPT, "arena '%s': not a regular file",
                       us_arena_shown(name));
    }
    if (name != NULL && (st->st_uid != geteuid() || (st->st_mode & 077) != 0)) {
        return us_fail(
            US_ESYSTEM,
            "arena '%s': belongs to user %u with mode %03o; expected user %u and "
            "mode 600: only one's own arenas can be trusted",
            name, st->st_uid, st->st_mode & 0777, geteuid());
    }
    return US_OK;
}

us_err us_arena_read_header(struct us_arena *a, const struct stat *st)
{
    struct us_header header;
    ssize_t got = pread(a->fd, &header, sizeof(header), 0);

    if (got != (ssize_t)sizeof(header) || header.magic != US_MAGIC) {
        return us_fail(US_ECORRUPT,
                       "'%s' is no uslub arena: its first bytes are not the mark "
                       "of one",
                       us_arena_shown(a->name));
    }
    if (header.version != US_LAYOUT_VERSION || header.page_size != US_PAGE_SIZE) {
        return us_fail(
            US_ELAYOUT,
            "arena '%s' has layout %u with pages of %u bytes, this build expects "
            "layout %u with %u: attach with the version that made it, or recreate "
            "the arena",
            a->name, header.version, header.page_size, US_LAYOUT_VERSION, US_PAGE_SIZE);
    }
    if (header.checksum != us_header_checksum(&header) ||
        !us_layout_compute(&header.config, &a->at)) {
        return us_fail(
            US_ECORRUPT,
            "arena '%s': its header does not match its checksum; the file is "
            "damaged: recreate the arena",
            a->name);
    }
    if ((uint64_t)st->st_size != a->at.end) {
        return us_fail(
            US_ECORRUPT,
            "arena '%s' has %llu bytes, its header says %llu: it was truncated or "
            "extended; recreate the arena",
            a->name, (unsigned long long)st->st_size, (unsigned long long)a->at.end);
    }
    if (header.poisoned && !a->looking) {
        return us_arena_poisoned(a);
    }
    a->config = header.config;
    return US_OK;
}

static us_err attach_locked(const char *name, int fd, const struct stat *st,
                            us_arena **ret)
{
    struct us_arena *a = already_attached(st);
    us_err err;

    if (a != NULL) {
        *ret = a;
        (void)close(fd);
        return US_OK;
    }
    a = us_arena_handle_new(name, fd);
    if (a == NULL) {
        (void)close(fd);
        return US_ENOMEM;
    }
    err = us_arena_read_header(a, st);
    if (err == US_OK) {
        err = us_arena_map(a);
    }
    if (err == US_OK) {
        err = us_process_register(a);
    }
    if (err != US_OK) {
        us_arena_handle_drop(a);
        (void)close(fd);
        return err;
    }
    us_arena_enter_registry(a);
    *ret = a;
    return US_OK;
}

/* Registry locked since before the file was opened: no fork() may get it between. */
static us_err attach_file(const char *name, int fd, us_arena **ret)
{
    struct stat st;
    us_err err;

    if (fstat(fd, &st) != 0) {
        err = us_fail_errno(US_ESYSTEM, "arena '%s': cannot be examined",
                            us_arena_shown(name));
    } else {
        err = us_arena_check_file(name, &st);
    }
    if (err != US_OK) {
        (void)close(fd);
        return err;
    }
    return attach_locked(name, fd, &st, ret);
}

us_err us_arena_open_name(const char *name, const char *path, int *ret)
{
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);

    *ret = fd;
    if (fd < 0 && errno == ENOENT) {
        return us_fail(US_ENOTFOUND,
                       "no arena '%s' (%s does not exist): create it first, or "
                       "see `uslub ls`",
                       name, path);
    }
    if (fd < 0) {
        return us_fail_errno(errno == ELOOP || errno == EISDIR ? US_ECORRUPT
                                                               : US_ESYSTEM,
                             "arena '%s': cannot open %s", name, path);
    }
    return US_OK;
}

us_err us_arena_attach(const char *name, us_arena **ret)
{
    char path[256];
    us_err err = us_arena_path(name, path, sizeof(path));
    int fd;

    if (err == US_OK) {
        us_arena_install_fork_handlers();
        us_registry_lock();
        err = us_arena_open_name(name, path, &fd);
        if (err == US_OK) {
            err = attach_file(name, fd, ret);
        }
        us_registry_unlock();
    }
    if (err == US_OK) {
        us_reap_sometimes(*ret);
    }
    return err;
}

static us_err attach_descriptor(int fd, us_arena **ret)
{
    char path[64];
    int own;

    /* A file description of our own: the life lock belongs to it. */
    (void)snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
    own = fcntl(fd, F_GETFD) < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (own < 0) {
        return us_fail_errno(US_ESYSTEM,
                             "file descriptor %d: cannot be opened for reading "
                             "and writing",
                             fd);
    }
    return attach_file(NULL, own, ret);
}

us_err us_arena_attach_fd(int fd, us_arena **ret)
{
    us_err err;

    us_arena_install_fork_handlers();
    us_registry_lock();
    err = attach_descriptor(fd, ret);
    us_registry_unlock();
    if (err == US_OK) {
        us_reap_sometimes(*ret);
    }
    return err;
}

void us_arena_detach(us_arena *arena)
{
    us_registry_lock();
    if (--arena->refs == 0) {
        struct us_arena **link = &registry;

        while (*link != arena) {
            link = &(*link)->next;
        }
        *link = arena->next;
        if (us_me(arena) != 0) {
            us_process_unregister(arena);
        }
        if (arena->fd >= 0) {
            (void)close(arena->fd);
        }
        if (arena->passed_fd >= 0) {
            (void)close(arena->passed_fd);
        }
        us_arena_handle_drop(arena);
    }
    us_registry_unlock();
}

us_err us_arena_unlink(const char *name)
{
    char path[256];
    us_err err = us_arena_path(name, path, sizeof(path));

    if (err != US_OK) {
        return err;
    }
    if (unlink(path) == 0) {
        return US_OK;
    }
    if (errno == ENOENT) {
        return us_fail(US_ENOTFOUND, "no arena '%s' to unlink (%s does not exist)",
                       name, path);
    }
    return us_fail_errno(US_ESYSTEM, "arena '%s': cannot unlink %s", name, path);
}

/* ---- looking ---- */

us_err us_arena_stat(us_arena *arena, struct us_arena_info *ret)
{
    struct us_process_info people[US_PROCESSES];
    struct us_pages_info pages;
    struct stat st;
    uint32_t count;

    memset(ret, 0, sizeof(*ret));
    if (fstat(arena->fd, &st) != 0) {
        return us_fail_errno(US_ESYSTEM, "arena '%s': cannot be examined", arena->name);
    }
    (void)snprintf(ret->name, sizeof(ret->name), "%s", arena->name);
    memcpy(ret->id, arena->config.id, sizeof(ret->id));
    ret->layout_version = US_LAYOUT_VERSION;
    ret->page_size = US_PAGE_SIZE;
    ret->cpus = arena->cpus;
    ret->nodes = arena->nodes;
    ret->size = arena->data_bytes;
    ret->file_size = arena->at.end;
    ret->data_offset = arena->data_start;
    ret->committed = (uint64_t)st.st_blocks * 512;
    ret->reserve_pages = arena->config.reserve_pages;
    ret->keep = arena->config.keep_pages << US_PAGE_SHIFT;
    ret->created_ns = arena->config.created_ns;
    ret->caches = us_load_relaxed32(&arena->header->cache_count);
    for (uint32_t node = 0; node < arena->nodes; node++) {
        (void)us_pages_stat(arena, node, &pages);
        ret->free_pages += pages.free_pages;
    }
    count = us_arena_processes(arena, people, US_PROCESSES);
    for (uint32_t i = 0; i < count; i++) {
        ret->processes += people[i].alive;
        ret->processes_dead += !people[i].alive;
    }
    return US_OK;
}

/* A second description: whoever it is passed to must not keep us alive. */
int us_arena_fd(us_arena *arena)
{
    char path[64];

    us_registry_lock();
    if (arena->passed_fd < 0) {
        (void)snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", arena->fd);
        arena->passed_fd = open(path, O_RDWR | O_CLOEXEC);
        if (arena->passed_fd < 0) {
            (void)us_fail_errno(US_ESYSTEM, "arena '%s': no descriptor to pass on",
                                arena->name);
        }
    }
    us_registry_unlock();
    return arena->passed_fd;
}

void *us_arena_base(us_arena *arena)
{
    return arena->base;
}

void *us_pointer(us_arena *arena, uint64_t offset)
{
    return us_at(arena, offset);
}

uint64_t us_offset(us_arena *arena, const void *pointer)
{
    return (uint64_t)((const char *)pointer - arena->base);
}
