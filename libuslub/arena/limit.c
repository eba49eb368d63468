/* SPDX-License-Identifier: MIT */
/*
 * limit.c - how much memory the control group of this process still lets us have.
 *
 * At its limit the kernel kills somebody rather than fail fallocate(). So we ask first:
 * the least room in our group and the groups around it, counting page cache as room
 * because it gives way. The answer is a credit that commits use up before the next
 * question; others in the group may be faster, so it is a quarter of the room at most.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arena/arena.h"

#define CREDIT_MAX (64ULL << 20)
#define UNLIMITED  (1ULL << 60)
#define MARGIN     (1ULL << 20) /* page tables and whatever else the process needs */

struct hierarchy {
    const char *mount, *limit, *usage;
    const char *cache[2]; /* keys in memory.stat that count as room */
};
static const struct hierarchy version1 = {
    "/sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    {"total_inactive_file ", "total_active_file "}};
static const struct hierarchy version2 = {"/sys/fs/cgroup",
                                          "memory.max",
                                          "memory.current",
                                          {"inactive_file ", "active_file "}};

static uint64_t credit; /* bytes; shared by the threads of this process */

/* A number from a file of a group; UNLIMITED if there is none ("max", no such file). */
static uint64_t read_number(const char *group, const char *name)
{
    char path[600], line[64] = "";
    uint64_t number = UNLIMITED;
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s/%s", group, name);
    file = fopen(path, "re");
    if (file != NULL) {
        if (fgets(line, sizeof(line), file) != NULL && line[0] >= '0' &&
            line[0] <= '9') {
            number = strtoull(line, NULL, 10);
        }
        (void)fclose(file);
    }
    return number;
}

static uint64_t cached_bytes(const char *group, const struct hierarchy *h)
{
    char path[600], line[128];
    uint64_t bytes = 0;
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s/memory.stat", group);
    file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        for (int i = 0; i < 2; i++) {
            if (strncmp(line, h->cache[i], strlen(h->cache[i])) == 0) {
                bytes += strtoull(line + strlen(h->cache[i]), NULL, 10);
            }
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return bytes;
}

static uint64_t room_of_group(const char *group, const struct hierarchy *h)
{
    uint64_t limit = read_number(group, h->limit), usage, cache;

    if (limit >= UNLIMITED) {
        return UNLIMITED;
    }
    usage = read_number(group, h->usage);
    cache = cached_bytes(group, h);
    usage = usage > cache ? usage - cache : 0;
    return usage < limit ? limit - usage : 0;
}

/* The least room from `path` up to the mount. Inside a container only the mount is
 * visible. */
static uint64_t room_on_path(const char *path, const struct hierarchy *h)
{
    char group[512];
    uint64_t least = UNLIMITED;
    size_t base = strlen(h->mount);

    (void)snprintf(group, sizeof(group), "%s%s", h->mount, path);
    for (;;) {
        uint64_t room = room_of_group(group, h);
        char *slash = strrchr(group + base, '/');

        least = room < least ? room : least;
        if (slash == NULL) {
            return least;
        }
        *slash = '\0';
    }
}

static uint64_t room_left(void)
{
    char line[512];
    uint64_t least = UNLIMITED, room;
    FILE *file = fopen("/proc/thread-self/cgroup", "re");

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        char *path = strstr(line, ":memory:");

        line[strcspn(line, "\n")] = '\0';
        if (path != NULL) {
            room = room_on_path(path + strlen(":memory:"), &version1);
        } else if (strncmp(line, "0::", 3) == 0) {
            room = room_on_path(line + 3, &version2);
        } else {
            continue;
        }
        least = room < least ? room : least;
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return least;
}

us_err us_limit_ask(const struct us_arena *a, uint64_t bytes)
{
    uint64_t have = us_load_relaxed64(&credit), room;

    while (have >= bytes) {
        if (us_cas_acq_rel64(&credit, &have, have - bytes)) {
            return US_OK;
        }
    }
    room = room_left();
    if (room < MARGIN || room - MARGIN < bytes) {
        return us_fail(
            US_ENOMEM,
            "arena '%s': no room for %llu more bytes: the memory limit of this "
            "process's control group leaves %llu; raise it, or free something",
            a->name, (unsigned long long)bytes, (unsigned long long)room);
    }
    room = (room - MARGIN - bytes) / 4;
    us_store_relaxed64(&credit, room < CREDIT_MAX ? room : CREDIT_MAX);
    return US_OK;
}
