/* SPDX-License-Identifier: MIT */
/*
 * order.h - what a model tells the checker, and what the checker does for the engine.
 *
 * A model is a C file that includes the engine's own C files. Those are compiled with
 * builtins.h in front, so that each atomic builtin of base/atomic.h becomes a call of
 * one of the functions at the end of this file, with the memory order that
 * base/atomic.h names. checker.cc plays them on relacy's memory.
 */
#ifndef ORDER_H
#define ORDER_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ORDER_THREADS 3

/* What to run. One schedule: begin(), the threads at once, end(). */
struct order_model {
    int threads;         /* 2 or 3 */
    unsigned iterations; /* schedules, unless the command line says otherwise */
    bool fences;         /* compiler barriers are half of a membarrier() pair */
    bool timed;          /* a sleep on a futex may end by itself */
    void (*begin)(void); /* sets memory up, names the words */
    void (*thread[ORDER_THREADS])(void);
    void (*end)(void); /* memory is plain again: what must hold now? */
};
extern const struct order_model order_model;

/* ---- in begin() ---- */

/*
 * From now on the word at `p` (2, 4, 8 or 16 bytes, with what it holds now) has
 * relacy's memory: a load may see old values, as far as the orders let it. Words that
 * are not named behave as if all was sequentially consistent.
 */
void order_word(const void *p, unsigned bytes);
/* Something that is not atomic: order_touch() of two threads at once is a data race. */
void order_payload(unsigned index);

/* ---- in threads ---- */

/* Somebody writes to payload `index`, which he believes to be his. */
void order_touch(unsigned index);
/* Somebody reads it. */
void order_look(unsigned index);
/* This thread dies at one of its next `steps` accesses, or after them; see
 * order_die(). */
void order_mortal(unsigned steps);
/* Runs `body` until it ends or dies. True: it died. The death of it is then known to
 * everybody who has called order_await(): all its stores before are visible. */
bool order_die(void (*body)(void));
/* Waits until thread `index` has died or ended. */
void order_await(int index);
unsigned order_random(unsigned limit);
int order_thread(void);

/* The schedule is wrong if `claim` is false. */
#define order_assert(claim) order_claim((claim), #claim, __FILE__, __LINE__)
void order_claim(bool claim, const char *text, const char *file, int line);

/* ---- for builtins.h ---- */

void order_load(void *ret, const void *p, unsigned bytes, int order);
void order_store(void *p, const void *value, unsigned bytes, int order);
bool order_cas(void *p, void *expected, const void *value, unsigned bytes, int success,
               int failure);
enum order_rmw { ORDER_ADD, ORDER_OR, ORDER_AND, ORDER_EXCHANGE };
void order_rmw(void *ret, void *p, const void *value, unsigned bytes,
               enum order_rmw what, int order);
void order_fence(int order);
void order_signal_fence(void);

/* Called when a word is read that others may be giving back; a model may look. */
void order_speculated(const void *p) __attribute__((weak));

#ifdef __cplusplus
}
#endif

#endif
