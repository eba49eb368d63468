/* SPDX-License-Identifier: MIT */
/*
 * handle.h - what create.c, arena.c and look.c share: names, handles, the mapping.
 */
#ifndef US_ARENA_HANDLE_H
#define US_ARENA_HANDLE_H

#include <sys/stat.h>

#include "arena/arena.h"

#define US_ARENA_DIRECTORY "/dev/shm"
#define US_ARENA_NAME_MAX  200

/* The file of a named arena; US_EBADNAME. */
us_err us_arena_path(const char *name, char *path, size_t size);
us_err us_arena_open_name(const char *name, const char *path, int *ret);
/* Is it a file of ours; and is it a whole arena of this layout: fills in config and
 * layout. */
us_err us_arena_check_file(const char *name, const struct stat *st);
us_err us_arena_read_header(struct us_arena *a, const struct stat *st);
/* A name for messages. */
const char *us_arena_shown(const char *name);

/* A handle without a mapping; NULL: no memory. `fd` stays the caller's until it is
 * mapped. */
struct us_arena *us_arena_handle_new(const char *name, int fd);
/* Undoes us_arena_handle_new() and us_arena_map(); does not close the descriptor. */
void us_arena_handle_drop(struct us_arena *a);
/* Maps the file; config and layout are known. */
us_err us_arena_map(struct us_arena *a);
/* Others in this process find it from now on; registry locked. */
void us_arena_enter_registry(struct us_arena *a);
void us_arena_install_fork_handlers(void);

#endif
