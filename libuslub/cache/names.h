/* SPDX-License-Identifier: MIT */
/*
 * names.h - which name leads to which cache, and this process's handles of caches.
 *
 * The table of names is a hash table of entries in the arena; cache_lock guards it.
 * Every entry number and id is checked before it is followed.
 */
#ifndef US_CACHE_NAMES_H
#define US_CACHE_NAMES_H

#include "cache/cache.h"

us_err us_damaged(const struct us_arena *a, const char *what);
bool us_id_valid(const struct us_arena *a, uint32_t id);
bool us_name_valid(const struct us_arena *a, uint32_t entry);

/* cache_lock; US_ELOCKED: within two seconds it could not be had. */
us_err us_registry_hold(struct us_arena *a, struct us_thread *t);
/* The same for a call of our user. */
us_err us_lock_caches(struct us_arena *a, struct us_thread **t);
void us_unlock_caches(struct us_arena *a, struct us_thread *t);

us_err us_name_check(const char *name);
/* Where the chain of entries with this name's hash begins. */
uint32_t *us_name_bucket(const struct us_arena *a, const char *name);
/* Entry of a name, 0 if there is none. US_ECORRUPT if the table is damaged. */
us_err us_name_find(const struct us_arena *a, const char *name, uint32_t *ret);
/* A free entry, committed; not yet in the table. */
us_err us_name_new(struct us_arena *a, uint32_t *ret);
/* The name leads to cache `id` from now on. */
void us_name_enter(struct us_arena *a, uint32_t entry, const char *text, uint32_t id,
                   const struct us_cache_config *config);
void us_name_remove(struct us_arena *a, uint32_t entry);
/* The oldest name born after `after` that leads to `id`, 0 if there is none. */
uint32_t us_name_oldest(const struct us_arena *a, uint32_t id, uint64_t after);
/* US_ECACHEEXISTS, with both sets of parameters, if they differ. */
us_err us_name_compare(const struct us_name *have,
                       const struct us_cache_config *config);

#endif
