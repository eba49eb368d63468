/* SPDX-License-Identifier: MIT */
/*
 * oracle.h - who holds which object, kept outside of the arena by those who hold them.
 *
 * A file of its own, mapped by all workers of a round (C and Python alike) and by their
 * conductor: one word per 8 bytes of the arena, a chair per living process, a board for
 * tickets. The word of an object's first granule is set after the allocator has handed
 * the object out, and cleared before it is given back; whoever is handed an object that
 * a living process holds has found a fault. It knows nothing of the engine, so it
 * cannot share its errors.
 *
 * A word: bit 63: one holder, never sent; bits 48 to 62: the serial that its contents
 * come from; bits 0 to 47: the chairs that hold it. With no chair: free, or on its way
 * in a message.
 *
 * Does not: count references in messages. That an object was freed too early while it
 * was on its way shows in its contents, or as a holder who should not be.
 */
#ifndef US_CHAOS_ORACLE_H
#define US_CHAOS_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

#define CHAOS_CHAIRS  48 /* bits in a word */
#define CHAOS_THREADS 4
#define CHAOS_PLACES  64
#define CHAOS_TEXTS   64
#define CHAOS_WIRE    44 /* bytes of a handle, as the binding writes it */

#define CHAOS_API __attribute__((visibility("default")))

/* X(operation, name): what a worker may be in the middle of. */
#define CHAOS_OPERATIONS(X)                                                            \
    X(REST, "rest")                                                                    \
    X(ALLOC, "alloc")                                                                  \
    X(FREE, "free")                                                                    \
    X(BULK_ALLOC, "bulk alloc")                                                        \
    X(BULK_FREE, "bulk free")                                                          \
    X(KMALLOC, "kmalloc")                                                              \
    X(LARGE, "large kmalloc")                                                          \
    X(KREALLOC, "krealloc")                                                            \
    X(SEND, "channel send")                                                            \
    X(RECEIVE, "channel receive")                                                      \
    X(TICKET, "send")                                                                  \
    X(CLAIM, "receive")                                                                \
    X(MOVE, "move")                                                                    \
    X(ADOPT, "adopt")                                                                  \
    X(FLUSH, "flush")                                                                  \
    X(SHRINK, "shrink")                                                                \
    X(TUNE, "set cpu_partial")                                                         \
    X(CREATE, "cache create")                                                          \
    X(DESTROY, "cache destroy")                                                        \
    X(TRIM, "trim")                                                                    \
    X(REAP, "reap")                                                                    \
    X(REATTACH, "detach, attach")                                                      \
    X(FORK, "fork")                                                                    \
    X(EXEC, "exec")                                                                    \
    X(THREAD_RETURN, "thread returns")                                                 \
    X(THREAD_CANCEL, "thread is cancelled")                                            \
    X(THREAD_VANISH, "thread vanishes")                                                \
    X(QUIT, "quit")

enum chaos_operation {
#define CHAOS_X(item, name) CHAOS_##item,
    CHAOS_OPERATIONS(CHAOS_X)
#undef CHAOS_X
        CHAOS_COUNT
};

enum chaos_state {
    CHAOS_NOBODY,
    CHAOS_SITTING_DOWN,
    CHAOS_LIVE,
    CHAOS_EXECING, /* as good as dead, unless the exec fails */
    CHAOS_DEAD,    /* by its own word: another program runs under that pid */
};

/* One thread: alive as long as `beat` grows. */
struct chaos_thread {
    uint64_t beat;
    uint32_t tid; /* 0: no thread here */
    uint32_t operation;
};

struct chaos_chair {
    uint32_t state;
    int32_t pid;
    uint64_t start;    /* of the process, in ticks since boot: a pid may come again */
    uint32_t language; /* 'C' or 'P' */
    uint32_t heir;     /* it began with fork() */
    uint64_t done[CHAOS_COUNT];
    uint64_t refused; /* calls that may fail, and did: no memory, busy, stale */
    uint64_t reaped;  /* participants settled by its own us_reap() */
    uint64_t reap_max_ns;
    struct chaos_thread threads[CHAOS_THREADS];
};

/* A ticket or a moved object on its way; `chair` is who reads or writes it. */
enum { CHAOS_EMPTY, CHAOS_BUSY, CHAOS_FULL };
struct chaos_place {
    uint32_t state, chair;
    uint32_t from; /* owner tag of a moved object; 0: a ticket */
    uint8_t wire[CHAOS_WIRE];
};

struct chaos_oracle {
    uint64_t words_count;
    uint32_t stop;     /* the round is over */
    uint32_t room;     /* chairs that forks may take */
    uint32_t channels; /* full places of `channel` */
    uint32_t calm;     /* nobody ends, in whatever way, before the round does */
    uint32_t unused;
    uint32_t texts_count; /* violations; the first CHAOS_TEXTS are kept */
    uint64_t serial;
    uint8_t channel[4][CHAOS_WIRE];
    char texts[CHAOS_TEXTS][256];
    struct chaos_place places[CHAOS_PLACES];
    struct chaos_chair chairs[CHAOS_CHAIRS];
    uint64_t words[];
};

CHAOS_API uint64_t chaos_bytes(uint64_t arena_bytes);
CHAOS_API struct chaos_oracle *chaos_map(int fd, uint64_t arena_bytes);
CHAOS_API const char *chaos_name(uint32_t operation);
CHAOS_API uint32_t chaos_operations(void);

/* Something that must not be. */
CHAOS_API void chaos_complain(struct chaos_oracle *o, uint32_t chair, const char *text);

/* A chair for this process, or -1. */
CHAOS_API int chaos_sit(struct chaos_oracle *o, uint32_t language, uint32_t heir);
/* Takes the bits of a dead chair from all words; then somebody else may sit there. */
CHAOS_API void chaos_void(struct chaos_oracle *o, uint32_t chair);
/* Is the process that sits there gone? */
CHAOS_API bool chaos_gone(struct chaos_oracle *o, uint32_t chair);
CHAOS_API void chaos_begin(struct chaos_oracle *o, uint32_t chair, uint32_t thread,
                           uint32_t operation);

/* The allocator handed out `memory`: ours alone from now on, and filled. The serial. */
CHAOS_API uint32_t chaos_take(struct chaos_oracle *o, uint32_t chair, uint64_t offset,
                              void *memory, uint64_t nbytes);
/* We are about to give it back, or back one of several holds; contents are checked. */
CHAOS_API void chaos_drop(struct chaos_oracle *o, uint32_t chair, uint64_t offset,
                          const void *memory, uint64_t nbytes, uint32_t serial);
/* About to be sent, or inherited. */
CHAOS_API void chaos_share(struct chaos_oracle *o, uint32_t chair, uint64_t offset);
/* Taken out with chaos_drop() to be moved: what is in it stays. */
CHAOS_API void chaos_offer(struct chaos_oracle *o, uint64_t offset, uint32_t serial);
/* We got it from somebody, or inherited it. The serial. */
CHAOS_API uint32_t chaos_join(struct chaos_oracle *o, uint32_t chair, uint64_t offset,
                              const void *memory, uint64_t nbytes);
/* The first `nbytes` are those of an object that was at `offset`. */
CHAOS_API bool chaos_intact(const void *memory, uint64_t nbytes, uint64_t offset,
                            uint32_t serial);

/* The board: a handle for whoever comes. */
CHAOS_API bool chaos_put(struct chaos_oracle *o, uint32_t chair, const void *wire,
                         uint32_t from);
CHAOS_API bool chaos_get(struct chaos_oracle *o, uint32_t chair, void *wire,
                         uint32_t *from, bool moved);

#endif
