/* SPDX-License-Identifier: MIT */
/*
 * look.c - an arena seen from outside: mapped read-only, by somebody who takes no part.
 *
 * For `uslub doctor`. Attaching registers, may recover somebody and refuses a poisoned
 * arena; here nothing is written, waited for or refused that has a whole header.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "arena/arena.h"
#include "arena/handle.h"

us_err us_arena_look(const char *name, us_arena **ret)
{
    char path[256];
    struct us_arena *a = NULL;
    struct stat st;
    us_err err = us_arena_path(name, path, sizeof(path));
    int fd = -1;

    if (err == US_OK) {
        err = us_arena_open_name(name, path, &fd);
    }
    if (err == US_OK && fstat(fd, &st) != 0) {
        err = us_fail_errno(US_ESYSTEM, "arena '%s': cannot be examined", name);
    }
    if (err == US_OK && (err = us_arena_check_file(name, &st)) == US_OK) {
        a = us_arena_handle_new(name, fd);
        err = a == NULL ? US_ENOMEM : US_OK;
    }
    if (err == US_OK) {
        a->looking = true;
        err = us_arena_read_header(a, &st);
    }
    if (err == US_OK && (err = us_arena_map(a)) == US_OK) {
        *ret = a;
        return US_OK;
    }
    if (a != NULL) {
        us_arena_handle_drop(a);
    }
    if (fd >= 0) {
        (void)close(fd);
    }
    return err;
}

void us_arena_look_end(us_arena *a)
{
    int fd = a->fd;

    us_arena_handle_drop(a);
    (void)close(fd);
}
