/* SPDX-License-Identifier: MIT */
/*
 * system.h - what the engine is told in place of the system: the end of explore.h.
 *
 * These functions of the C library are the explorer's own, for the program is linked
 * with them first. Nothing in them depends on the machine, the load or the hour, so a
 * schedule that was printed once can be played again.
 */
#ifndef US_EXPLORE_SYSTEM_H
#define US_EXPLORE_SYSTEM_H

#include <sched.h>
#include <sys/personality.h>
#include <sys/random.h>
#include <time.h>

#include "explore/explore.h"

/* Sleeping and giving way are waiting, too. */
int usleep(useconds_t duration)
{
    (void)duration;
    (void)us_wait_point();
    return 0;
}

int sched_yield(void)
{
    (void)us_wait_point();
    return 0;
}

/* The same at every run: time, and what is left to chance (see also start()). */
int clock_gettime(clockid_t clock, struct timespec *ret)
{
    (void)clock;
    *ret = (struct timespec){.tv_sec = 1000000, .tv_nsec = ticks++ % 1000000000};
    return 0;
}

/* Each on a CPU of its own; see start(). */
int sched_getcpu(void)
{
    return running == NULL ? 0 : (int)(running - actors);
}

ssize_t getrandom(void *to, size_t bytes, unsigned flags)
{
    (void)flags;
    memset(to, 0x5a, bytes);
    return (ssize_t)bytes;
}

/* Nobody sleeps on a lock here, and nobody else's stores are to be waited for. */
long syscall(long number, ...)
{
    (void)number;
    return 0;
}

/* A picture reads links from the file, so that it never meets a page that has gone. */
ssize_t pread(int fd, void *to, size_t bytes, off_t offset)
{
    (void)fd;
    memcpy(to, mapping + offset, bytes);
    return (ssize_t)bytes;
}

/* Begins the program, with the same addresses at every run, and a C library that has to
 * be asked for the CPU. */
static void start(char **argv)
{
    int was = personality(0xffffffff);

    if (!(was & ADDR_NO_RANDOMIZE) &&
        personality((unsigned long)was | ADDR_NO_RANDOMIZE) >= 0) {
        (void)setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0", 1);
        (void)execv("/proc/self/exe", argv); /* or else go on */
    }
    sites_find();
}

#endif
