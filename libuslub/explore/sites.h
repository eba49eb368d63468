/* SPDX-License-Identifier: MIT */
/*
 * sites.h - every place of the engine that touches shared memory, and whether an actor
 * was ever stopped there, or died there.
 *
 * An explorer answers for some files. A site in one of them that was not used fails the
 * run, unless a row of the explorer's table says why it cannot be; a row that is not
 * needed any more fails it, too.
 */
#ifndef US_EXPLORE_SITES_H
#define US_EXPLORE_SITES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/atomic.h"

extern struct us_site __start_us_sites[], __stop_us_sites[];

/* What is not asked of one function, or (func NULL) of a file. */
struct exemption {
    const char *file, *func, *reason;
    bool stops; /* not even a switch; else only a death is not asked for */
    bool used;
};

static const char *site_file(const struct us_site *site)
{
    const char *at = strstr(site->file, "libuslub/");

    return at == NULL ? site->file : at + strlen("libuslub/");
}

/* One line is one site, whatever the compiler made of it. */
static void sites_find(void)
{
    for (struct us_site *site = __start_us_sites; site < __stop_us_sites; site++) {
        struct us_site *same = __start_us_sites;

        while (same->line != site->line || strcmp(same->file, site->file) != 0) {
            same++;
        }
        site->same = same;
        site->own = strcmp(site->func, "us_self_id") == 0 ||
                    strcmp(site->func, "us_me") == 0 ||
                    strcmp(site->func, "us_limit_ask") == 0;
    }
}

static bool site_asked(const struct us_site *site, const char *const *files)
{
    for (; site->same == site && !site->own && *files != NULL; files++) {
        if (strcmp(site_file(site), *files) == 0) {
            return true;
        }
    }
    return false;
}

/* Does a row excuse it? With `deaths` a death is missing, else even a switch. */
static bool site_excused(const struct us_site *site, struct exemption *rows,
                         bool deaths)
{
    for (; rows->file != NULL; rows++) {
        if (strcmp(site_file(site), rows->file) == 0 &&
            (rows->func == NULL || strcmp(site->func, rows->func) == 0) &&
            (deaths || rows->stops)) {
            rows->used = true;
            return true;
        }
    }
    return false;
}

/* How many of the sites of `files` were missed; each is named. `all`: so are rows that
 * excuse nothing. */
static int sites_missed(const char *const *files, struct exemption *rows, bool deaths,
                        bool all)
{
    unsigned asked = 0;
    int missed = 0;

    for (struct us_site *site = __start_us_sites; site < __stop_us_sites; site++) {
        const char *lacks = site->stops == 0             ? "switch"
                            : deaths && site->kills == 0 ? "kill"
                                                         : NULL;

        asked += site_asked(site, files);
        if (lacks == NULL || !site_asked(site, files) ||
            site_excused(site, rows, site->stops != 0)) {
            continue;
        }
        (void)fprintf(stderr, "explore: %s:%u %s(): never a %s point\n",
                      site_file(site), site->line, site->func, lacks);
        missed++;
    }
    for (; rows->file != NULL; rows++) {
        if (all && !rows->used && (deaths || rows->stops)) {
            (void)fprintf(stderr, "explore: %s %s: excused, but used everywhere\n",
                          rows->file, rows->func == NULL ? "" : rows->func);
            missed++;
        }
    }
    (void)printf("explore: %u sites, %d missed\n", asked, missed);
    return missed;
}

#endif
