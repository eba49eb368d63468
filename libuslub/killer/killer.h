/* SPDX-License-Identifier: MIT */
/*
 * killer.h - the shipped library, killed or stopped after every instruction.
 *
 * A trial is a process of its own, the *world*: it makes an arena, forks a *victim*
 * that is a participant like itself, brings both into the state that an operation
 * starts from, single-steps the victim into the middle of that operation, and then
 *
 *   kill   sends SIGKILL;
 *   late   works in the same arena while the victim stands still, then sends SIGKILL;
 *   stop   works in the same arena, lets the victim end the operation, kills it at
 *          rest.
 *
 * What is left is reaped and looked at. Every trial begins from the same process image,
 * so a line such as "free_chain 61 late 7" is enough to see it again.
 *
 * Relies on <uslub/uslub.h> and ptrace, on x86-64. Does not know what is inside the
 * library, and does not explore two moving participants: explore/ does.
 */
#ifndef KILLER_KILLER_H
#define KILLER_KILLER_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <uslub/uslub.h>

#define OBJECT_SIZE 1024 /* four objects in a slab of one page */
#define HOLD_MAX    128
#define SCRIPTS     10 /* of the world, beside a victim that stands still */
#define FILL_VICTIM 0xd5

enum who { WORLD, VICTIM, CASUALTY, ACTORS };
enum mode { RECORD, KILL, LATE, STOP };
extern const char *const mode_names[];

/* What an actor holds, as it says itself. */
struct held {
    uint64_t offset; /* 0: nothing any more */
    uint32_t bytes;  /* filled with `fill` */
    uint8_t fill;
    bool subject; /* of the operation: its fate depends on where the victim died */
    bool thing;   /* of the small cache, which is drained at the end */
};

/* Shared by all processes of a trial. */
struct board {
    struct held held[ACTORS][HOLD_MAX];
    uint32_t held_count[ACTORS];
    us_err err[ACTORS]; /* of the operation; -1: it has not ended */
    uint64_t got[16];   /* offsets that the operation returned */
    uint32_t got_count, got_bytes;
    struct us_ticket ticket[2];
    uint64_t offset;
    uint16_t tag;
    int fd;
    uint32_t strayed; /* trials that were not where the record says */
};

/* What one process of a trial knows. */
struct scene {
    enum who who;
    enum mode mode;
    const struct operation *operation;
    uint64_t at; /* instructions of the victim */
    unsigned script;
    us_arena *arena;
    us_cache *cache;
    us_channel *channel;
    struct board *board;
    pid_t doomed;        /* waits for its death in the world's script; 0: none */
    void *pin;           /* so that nobody has all pages in hand at once */
    uint64_t pages_free; /* with nothing allocated */
};

/* In the order in which they run; any but `act` may be missing. */
struct operation {
    const char *name;
    void (*first)(struct scene *s);  /* victim */
    void (*others)(struct scene *s); /* world */
    void (*then)(struct scene *s);   /* victim */
    void (*act)(struct scene *s);    /* victim: the one call */
    void (*after)(struct scene *s);  /* world, when the victim has been reaped */
    void (*before)(struct scene *s); /* world, between `then` and `act` */
    uint32_t cache_flags;            /* of the small cache */
    enum us_stat counts;             /* the path it is meant to take; 0: any */
    bool early;                      /* the victim exists before the arena */
    bool names;                      /* holds the lock of all names */
    bool slow;                       /* its record takes too long for `make test` */
    const char *casualty;            /* somebody has died in the middle of this ... */
    unsigned permille;               /* ... after so much of its instructions */
};
extern const struct operation slab_operations[], sharing_operations[];
extern const size_t slab_operation_count, sharing_operation_count;

/* Of slabs_killer.c, and used by both. */
void op_done(struct scene *s, us_err err); /* what the operation returned */
void op_warm(struct scene *s);
void op_take_one(struct scene *s);
void op_destroy_names(struct scene *s);
/* Somebody else, who dies with a lock of the small cache. */
extern const struct operation doomed_operation;

/* ---- trace_killer.c: one traced process ---- */

#define SIGNAL_NONE 0
#define SIGNAL_GONE (-1)

/* The instructions of one operation, and the cheapest way to each of them. */
struct path {
    uint64_t *pc;     /* pc[k] is executed as number k; pc[count]: the caller */
    uint32_t *hits;   /* how often pc[k] has been met by then, itself included */
    uint32_t *anchor; /* break there, step from there; NO_ANCHOR: step from the start */
    uint64_t count;
};
#define NO_ANCHOR      UINT32_MAX
#define PATH_MAX_STEPS (1u << 22)

const char *trace_refused(void); /* a reason why this machine lets nobody trace */
void trace_me(void);
int trace_wait(pid_t pid); /* a signal it stopped at, or SIGNAL_GONE */
int trace_step(pid_t pid);
int trace_go(pid_t pid); /* until it stops by itself */
uint64_t trace_enter(pid_t pid, void (*function)(struct scene *)); /* its caller; 0 */
int trace_record(pid_t pid, uint64_t returns, uint64_t *pc, uint64_t *count);
/* Brings it to instruction `at`; SIGSTOP: the operation ended before. */
int trace_reach(pid_t pid, const struct path *path, uint64_t at, bool *strayed);
void trace_kill(pid_t pid);
bool path_plan(struct path *path);

/* ---- world_killer.c: the arena, and what must be true of it at the end ---- */

void scene_open(struct scene *s);
us_err scene_cache(struct scene *s);
void scene_pin(struct scene *s);
void scene_check(struct scene *s);
/* The world works while the victim stands still. */
void scene_rival(struct scene *s, const char *script);
const char *script_of(const struct scene *s);
unsigned script_usual(uint64_t at); /* one of SCRIPTS */

/* Says what is wrong and how to see it again; ends the process. */
_Noreturn void violation(const struct scene *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
#define EXPECT(s, holds, ...)                                                          \
    do {                                                                               \
        if (!(holds)) {                                                                \
            violation(s, __VA_ARGS__);                                                 \
        }                                                                              \
    } while (0)

void hold(struct scene *s, void *object, uint32_t bytes, bool thing);
void *take(struct scene *s, int cpu); /* one object of the small cache */
void take_many(struct scene *s, int cpu, int count);
void give(struct scene *s, uint32_t index, int cpu);
void *held_at(struct scene *s, enum who who, uint32_t index);
void *subject(struct scene *s, uint32_t index); /* of this actor */
void forget(struct scene *s, enum who who, uint32_t index);
bool intact(struct scene *s, const void *object, uint32_t bytes, uint8_t fill);

#endif
