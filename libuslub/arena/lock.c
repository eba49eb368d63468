/* SPDX-License-Identifier: MIT */
/*
 * lock.c - locks in shared memory: the word names the thread slot that holds it.
 *
 * 0: free; else slot + 1, and bit 31 says that somebody sleeps. Locks protect caches
 * (lists and chains), never truth. A holder that died is an error here, not a hang.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "arena/arena.h"

#define WAITERS 0x80000000u
#define SPINS   200

static void sleep_on(uint32_t *word, uint32_t seen)
{
    struct timespec patience = {.tv_nsec = 20 * 1000 * 1000};

    if (!US_WAIT_POINT()) {
        (void)syscall(SYS_futex, word, FUTEX_WAIT, seen, &patience, NULL, 0);
    }
}

/* Counted before it is taken and after it was given up: a thread that died with a count
 * of 0 held no lock. */
static void count_lock(struct us_thread *t, uint32_t change)
{
    us_store_release32(&t->locks, us_load_relaxed32(&t->locks) + change);
    us_compiler_barrier();
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

/* US_OK while the holder may still let go. */
static us_err check_holder(struct us_arena *a, uint32_t seen)
{
    uint32_t slot = (seen & ~WAITERS) - 1;
    uint32_t process;

    if (slot >= US_THREADS || slot >= us_load_acquire32(&a->header->thread_high)) {
        return us_fail(
            US_ECORRUPT,
            "arena '%s': a lock is held by thread slot %u, which never existed; "
            "the arena is damaged: recreate it",
            a->name, slot);
    }
    process = us_load_acquire32(&us_thread_at(a, slot)->state);
    if (process != 0 && process <= US_PROCESSES && us_process_alive(a, process - 1)) {
        return US_OK;
    }
    return us_fail(
        US_EOWNERDEAD,
        "arena '%s': the process in slot %u died while it held a lock; what the "
        "lock protects cannot be used: recreate the arena",
        a->name, process - 1);
}

static us_err lock(struct us_arena *a, struct us_thread *t, uint32_t *word)
{
    uint32_t me = us_thread_slot(a, t) + 1;
    uint32_t seen = 0;

    if (US_LIKELY(us_cas_acq_rel32(word, &seen, me))) {
        return US_OK;
    }
    for (unsigned spin = 0; spin < SPINS; spin++) {
        us_relax();
        seen = 0;
        if (us_load_relaxed32(word) == 0 && us_cas_acq_rel32(word, &seen, me)) {
            return US_OK;
        }
    }
    for (;;) {
        us_err err;

        seen = us_load_relaxed32(word);
        if (seen == 0) {
            /* Others may sleep still: keep the bit, at worst one wake-up too many. */
            if (us_cas_acq_rel32(word, &seen, me | WAITERS)) {
                return US_OK;
            }
            continue;
        }
        if (!(seen & WAITERS) && !us_cas_acq_rel32(word, &seen, seen | WAITERS)) {
            continue;
        }
        seen |= WAITERS;
        sleep_on(word, seen);
        if (us_load_relaxed32(word) == seen && (err = check_holder(a, seen)) != US_OK) {
            return err;
        }
    }
}

us_err us_lock(struct us_arena *a, struct us_thread *t, uint32_t *word)
{
    us_err err;

    count_lock(t, 1);
    err = lock(a, t, word);
    if (err != US_OK) {
        count_lock(t, (uint32_t)-1);
    }
    return err;
}

void us_unlock(struct us_thread *t, uint32_t *word)
{
    if (us_exchange_acq_rel32(word, 0) & WAITERS) {
        (void)syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
    count_lock(t, (uint32_t)-1);
}
