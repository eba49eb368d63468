/* SPDX-License-Identifier: MIT */
/*
 * lock.c - locks in shared memory: the word names the thread slot that holds it.
 *
 * 0: free; else slot + 1, and bits: somebody sleeps; somebody has waited in vain.
 * Locks protect caches (lists and chains), never truth, and nobody waits long for one:
 * whoever cannot have it takes another way, be the holder slow, stopped or dead.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "arena/arena.h"

#define WAITERS 0x80000000u
#define STUCK   0x40000000u
#define SPINS   200

/* Sleeps of 1, 2, 4 ... ms: 7 ms in all, or two seconds. */
#define SLEEPS      3
#define SLEEPS_LONG 11
/* However often the holder changes. */
#define SLEEPS_MOST 1000

/* True: nothing happened for the whole time. */
static bool sleep_on(uint32_t *word, uint32_t seen, unsigned slept)
{
    long ms = 1L << (slept < 10 ? slept : 10);
    struct timespec patience = {.tv_sec = ms / 1000,
                                .tv_nsec = ms % 1000 * 1000 * 1000};

    return US_WAIT_POINT() ||
           (syscall(SYS_futex, word, FUTEX_WAIT, seen, &patience, NULL, 0) != 0 &&
            errno == ETIMEDOUT);
}

/* Counted before it is taken and after it was given up: a thread that died with a count
 * of 0 held no lock. */
static void count_lock(struct us_thread *t, uint32_t change)
{
    us_store_release32(&t->locks, us_load_relaxed32(&t->locks) + change);
    us_compiler_barrier();
}

uint32_t us_lock_holder(uint32_t word)
{
    return word & ~(WAITERS | STUCK);
}

bool us_thread_dead(const struct us_arena *a, uint32_t slot)
{
    uint32_t state;

    if (slot >= US_THREADS || slot >= us_load_acquire32(&a->header->thread_high)) {
        return true; /* it never was */
    }
    state = us_load_acquire32(&us_thread_at(a, slot)->state);
    return state == 0 || state > US_PROCESSES || !us_process_alive(a, state - 1);
}

/* For users both are one thing: a lock that they cannot have. */
static us_err cannot_have(struct us_arena *a, uint32_t seen)
{
    uint32_t slot = us_lock_holder(seen) - 1, process;

    if (us_thread_dead(a, slot)) {
        (void)us_fail(
            US_ELOCKED,
            "arena '%s': a lock is held by thread slot %u, which is dead, and "
            "its repair has to wait for somebody who is stopped; see `uslub "
            "doctor`",
            a->name, slot);
        return US_EOWNERDEAD;
    }
    process = us_load_relaxed32(&us_thread_at(a, slot)->state) - 1;
    return us_fail(
        US_ELOCKED,
        "arena '%s': participant %u (process %d) does not let go of a lock; if it is "
        "stopped, continue it or kill it; see `uslub doctor`",
        a->name, process,
        process < US_PROCESSES
            ? (int)us_load_relaxed32((uint32_t *)&us_process_at(a, process)->pid)
            : -1);
}

static bool spin_for(uint32_t *word, uint32_t me)
{
    for (unsigned spin = 0; spin < SPINS; spin++) {
        uint32_t seen = us_load_relaxed32(word);

        if (seen == 0 && us_cas_acq_rel32(word, &seen, me)) {
            return true;
        }
        if (seen & STUCK) {
            break;
        }
        us_relax();
    }
    return false;
}

static us_err wait_for(struct us_arena *a, uint32_t me, uint32_t *word, unsigned sleeps)
{
    uint32_t holder = 0, seen;
    unsigned slept = 0, all = 0;

    for (;;) {
        seen = us_load_relaxed32(word);
        if (seen == 0) {
            /* Others may sleep still: keep the bit, at worst one wake-up too many. */
            if (us_cas_acq_rel32(word, &seen, me | WAITERS)) {
                return US_OK;
            }
            continue;
        }
        if (us_lock_holder(seen) != holder) {
            holder = us_lock_holder(seen);
            slept = 0;
        }
        if (((seen & STUCK) && sleeps == SLEEPS) || slept == sleeps ||
            all == SLEEPS_MOST) {
            break;
        }
        if (!(seen & WAITERS) && !us_cas_acq_rel32(word, &seen, seen | WAITERS)) {
            continue;
        }
        slept += sleep_on(word, seen | WAITERS, slept);
        if (us_lock_holder(us_load_relaxed32(word)) == holder &&
            us_thread_dead(a, holder - 1)) {
            break;
        }
        all++;
    }
    if (sleeps == SLEEPS && slept == sleeps) {
        (void)us_cas_acq_rel32(word, &seen, seen | STUCK);
    }
    return cannot_have(a, seen);
}

static us_err lock(struct us_arena *a, struct us_thread *t, uint32_t *word,
                   unsigned sleeps)
{
    uint32_t me = us_thread_slot(a, t) + 1, seen = 0;
    us_err err = US_OK;

    count_lock(t, 1);
    if (US_UNLIKELY(!us_cas_acq_rel32(word, &seen, me)) && !spin_for(word, me)) {
        err = wait_for(a, me, word, sleeps);
    }
    if (err != US_OK) {
        count_lock(t, (uint32_t)-1);
    }
    return err;
}

us_err us_lock(struct us_arena *a, struct us_thread *t, uint32_t *word)
{
    return lock(a, t, word, SLEEPS);
}

us_err us_lock_patiently(struct us_arena *a, struct us_thread *t, uint32_t *word)
{
    return lock(a, t, word, SLEEPS_LONG);
}

bool us_trylock(struct us_arena *a, struct us_thread *t, uint32_t *word)
{
    uint32_t seen = 0;

    count_lock(t, 1);
    if (us_cas_acq_rel32(word, &seen, us_thread_slot(a, t) + 1)) {
        return true;
    }
    count_lock(t, (uint32_t)-1);
    return false;
}

/* The holder's death is no secret any more: whoever takes over says WAITERS, so that
 * nobody who went to sleep on the old word is forgotten. */
us_err us_lock_inherit(struct us_arena *a, struct us_thread *t, uint32_t *word)
{
    uint32_t seen;
    us_err err = us_lock(a, t, word);

    if (err != US_EOWNERDEAD) {
        return err;
    }
    count_lock(t, 1);
    seen = us_load_relaxed32(word);
    if (seen != 0 && us_thread_dead(a, us_lock_holder(seen) - 1) &&
        us_cas_acq_rel32(word, &seen, (us_thread_slot(a, t) + 1) | WAITERS)) {
        return US_OK;
    }
    count_lock(t, (uint32_t)-1);
    return US_ELOCKED;
}

void us_unlock(struct us_thread *t, uint32_t *word)
{
    if (us_exchange_acq_rel32(word, 0) & WAITERS) {
        (void)syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
    count_lock(t, (uint32_t)-1);
}
