/* SPDX-License-Identifier: MIT */
/*
 * create.c - a new arena: its config, its file, its name.
 *
 * A file is complete before anybody can find it: a named arena is built in a file
 * without a name and linked into /dev/shm last.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "arena/handle.h"
#include "base/cpu.h"

#define KEEP_DEFAULT_MAX (256ULL << 20)

static us_err make_config(const struct us_arena_config *wish, bool anonymous,
                          struct us_config *ret)
{
    struct timespec now;
    bool real_nodes = wish->nodes == 0;

    memset(ret, 0, sizeof(*ret));
    ret->cpus = wish->cpus ? wish->cpus : us_cpu_count();
    ret->nodes = wish->nodes ? wish->nodes : us_node_count();
    if (wish->cpus == 0 && ret->cpus > US_CPUS_MAX) {
        ret->cpus = US_CPUS_MAX;
    }
    if (real_nodes && ret->nodes > US_NODES_MAX) {
        ret->nodes = US_NODES_MAX;
    }
    if (ret->cpus > US_CPUS_MAX || ret->nodes > US_NODES_MAX) {
        return us_fail(US_EBADARG,
                       "%u CPUs and %u nodes: at most %d and %d are possible",
                       ret->cpus, ret->nodes, US_CPUS_MAX, US_NODES_MAX);
    }
    if (wish->size == 0 || wish->size > (1ULL << US_OFFSET_BITS)) {
        return us_fail(US_EBADSIZE,
                       "arena of %llu bytes: from 1 byte to 2.9 TiB are possible",
                       (unsigned long long)wish->size);
    }
    ret->node_pages = (wish->size + (uint64_t)ret->nodes * US_PAGE_SIZE - 1) /
                      US_PAGE_SIZE / ret->nodes;
    if (wish->reserve > ret->node_pages << US_PAGE_SHIFT) {
        return us_fail(
            US_EBADSIZE,
            "a reserve of %llu bytes per node does not fit nodes of %llu bytes",
            (unsigned long long)wish->reserve,
            (unsigned long long)(ret->node_pages << US_PAGE_SHIFT));
    }
    ret->reserve_pages = (wish->reserve + US_PAGE_SIZE - 1) >> US_PAGE_SHIFT;
    ret->keep_pages = wish->keep >> US_PAGE_SHIFT;
    if (wish->keep == UINT64_MAX) {
        uint64_t keep = wish->size / 4;

        ret->keep_pages =
            (keep < KEEP_DEFAULT_MAX ? keep : KEEP_DEFAULT_MAX) >> US_PAGE_SHIFT;
    }
    ret->order_cpus = wish->order_cpus ? wish->order_cpus : ret->cpus;
    ret->caches_max = 64;
    while (ret->caches_max < (1u << 20) &&
           ret->caches_max < ret->node_pages * ret->nodes / 16) {
        ret->caches_max *= 2;
    }
    ret->anonymous = anonymous;
    for (uint32_t cpu = 0; cpu < ret->cpus; cpu++) {
        unsigned node = real_nodes ? us_node_of_cpu(cpu) : cpu * ret->nodes / ret->cpus;

        ret->cpu_node[cpu] = (uint8_t)(node < ret->nodes ? node : 0);
    }
    for (uint32_t i = 0; i < ret->nodes; i++) {
        for (uint32_t j = 0; j < ret->nodes; j++) {
            unsigned far = real_nodes ? us_node_distance(i, j) : i == j ? 10 : 20;

            ret->distance[i][j] = (uint8_t)(far < 255 ? far : 255);
        }
    }
    (void)clock_gettime(CLOCK_REALTIME, &now);
    ret->created_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (getrandom(ret->id, sizeof(ret->id), 0) != (ssize_t)sizeof(ret->id)) {
        return us_fail_errno(US_ESYSTEM, "no random bytes for the arena's id");
    }
    return US_OK;
}

static int open_anonymous(void)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int fd = memfd_create("uslub", flags | 8u /* MFD_NOEXEC_SEAL, Linux 6.3 */);

    return fd >= 0 ? fd : memfd_create("uslub", flags);
}

/* Real nodes: the pages of node n come from memory of node n. Best effort by nature. */
static void bind_nodes(const struct us_arena *a)
{
#ifdef SYS_mbind
    for (uint32_t node = 0; node < a->nodes && us_node_count() == a->nodes; node++) {
        unsigned long mask = 1ul << node;
        uint64_t bytes = a->config.node_pages << US_PAGE_SHIFT;

        (void)syscall(SYS_mbind, a->base + a->data_start + node * bytes, bytes,
                      1 /* MPOL_PREFERRED */, &mask, sizeof(mask) * 8, 0);
    }
#endif
}

static us_err fill_file(struct us_arena *a)
{
    us_err err;

    if (ftruncate(a->fd, (off_t)a->at.end) != 0) {
        return us_fail_errno(US_EBADSIZE, "arena '%s': a file of %llu bytes", a->name,
                             (unsigned long long)a->at.end);
    }
    if (fallocate(a->fd, 0, 0, (off_t)a->at.prefix_end) != 0) {
        return us_fail_errno(US_ENOMEM,
                             "arena '%s': no room for %llu bytes of metadata", a->name,
                             (unsigned long long)a->at.prefix_end);
    }
    err = us_arena_map(a);
    if (err == US_OK) {
        err = us_commit(a, 0, a->at.prefix_end);
    }
    if (err == US_OK) {
        err = us_pages_init(a);
    }
    if (err != US_OK) {
        return err;
    }
    if (a->nodes > 1) {
        bind_nodes(a);
    }
    a->header->version = US_LAYOUT_VERSION;
    a->header->page_size = US_PAGE_SIZE;
    a->header->config = a->config;
    a->header->magic = US_MAGIC;
    a->header->checksum = us_header_checksum(a->header);
    if (a->config.anonymous) {
        (void)fcntl(a->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    }
    return US_OK;
}

static us_err publish_name(const struct us_arena *a, const char *path)
{
    char own[64];

    (void)snprintf(own, sizeof(own), "/proc/thread-self/fd/%d", a->fd);
    if (linkat(AT_FDCWD, own, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0) {
        return US_OK;
    }
    if (errno == EEXIST) {
        return us_fail(
            US_EEXISTS,
            "arena '%s' exists already (%s): attach to it, unlink it, or take "
            "another name",
            a->name, path);
    }
    return us_fail_errno(US_ESYSTEM, "arena '%s': cannot be given the name %s", a->name,
                         path);
}

static us_err create_locked(const char *name, const char *path,
                            const struct us_config *config, us_arena **ret)
{
    int fd = name == NULL
                 ? open_anonymous()
                 : open(US_ARENA_DIRECTORY, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    struct us_arena *a;
    us_err err;

    if (fd < 0) {
        return us_fail_errno(US_ESYSTEM, "arena '%s': cannot open a file in %s",
                             us_arena_shown(name),
                             name == NULL ? "memory" : US_ARENA_DIRECTORY);
    }
    a = us_arena_handle_new(name, fd);
    if (a == NULL) {
        (void)close(fd);
        return US_ENOMEM;
    }
    a->config = *config;
    if (!us_layout_compute(config, &a->at)) {
        err = us_fail(US_EBADSIZE, "arena '%s': too large for this layout (2.9 TiB)",
                      a->name);
    } else {
        err = fill_file(a);
    }
    if (err == US_OK) {
        err = us_process_register(a);
    }
    if (err == US_OK && name != NULL) {
        err = publish_name(a, path);
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

us_err us_arena_create(const char *name, const struct us_arena_config *wish,
                       us_arena **ret)
{
    char path[256] = "";
    struct us_config config;
    struct stat st;
    us_err err = name == NULL ? US_OK : us_arena_path(name, path, sizeof(path));

    if (err == US_OK) {
        err = make_config(wish, name == NULL, &config);
    }
    if (err != US_OK) {
        return err;
    }
    if (name != NULL && lstat(path, &st) == 0) {
        return us_fail(
            US_EEXISTS,
            "arena '%s' exists already (%s): attach to it, unlink it, or take "
            "another name",
            name, path);
    }
    us_arena_install_fork_handlers();
    us_registry_lock();
    err = create_locked(name, path, &config, ret);
    us_registry_unlock();
    return err;
}
