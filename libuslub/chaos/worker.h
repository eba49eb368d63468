/* SPDX-License-Identifier: MIT */
/*
 * worker.h - what the two halves of a C worker share: its state and its objects.
 */
#ifndef US_CHAOS_WORKER_H
#define US_CHAOS_WORKER_H

#include <pthread.h>

#include "chaos/oracle.h"
#include <uslub/uslub.h>

#define CACHES   4
#define HOLDS    384
#define BULK     24
#define CHANNELS 4

/* One object that this process holds, perhaps several times. */
struct hold {
    void *memory;
    uint64_t offset, nbytes;
    uint32_t serial, holds;
    int cache; /* index; -1: of kmalloc, or from somebody else */
    bool alone;
    uint32_t busy; /* threads that are sending it: it stays */
};

/* All of this process; the arena, caches and channels are set before threads begin. */
struct worker {
    struct chaos_oracle *oracle;
    us_arena *arena;
    us_cache *caches[CACHES];
    us_channel *channels[CHANNELS];
    uint32_t channels_count;
    struct us_arena_info info;
    uint32_t chair;
    pthread_mutex_t lock; /* held while `holds` and the oracle are brought in line */
    struct hold holds[HOLDS];
    uint32_t count;
};
extern struct worker worker;

/* One thread's share. */
struct hand {
    uint32_t thread; /* 0 is who looks after the others */
    uint64_t random;
    uint32_t leave; /* set: return from work() */
};
extern _Thread_local struct hand *hand;
/* Set while a thread is inside the engine: then it may be cancelled, or vanish. */
extern _Thread_local volatile bool inside;

void enter_engine(void);
void leave_engine(void);
#define ENGINE(call)                                                                   \
    do {                                                                               \
        enter_engine();                                                                \
        call;                                                                          \
        leave_engine();                                                                \
    } while (0)

uint32_t dice(uint32_t sides);
/* The call failed: fine if it may fail with that code, else a violation. */
void refused(const char *what, us_err err, uint32_t allowed);
#define MAY(code) (1u << (code))

bool open_arena(const char *name);
/* One random operation on the arena. */
void operate(void);
void let_go_of_all(bool free_them);

#endif
