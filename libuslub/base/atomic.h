/* SPDX-License-Identifier: MIT */
/*
 * atomic.h - every access to memory that another process may touch at the same time.
 *
 * The verb carries the memory order. Nothing outside this file names an atomic builtin,
 * and shared words are touched through these functions only: with -DUS_EXPLORE each of
 * them is a scheduling point of the explorer (docs/design/03-protocol.md).
 *
 * Does not: give blocking primitives (lock.h) or know any struct.
 */
#ifndef US_BASE_ATOMIC_H
#define US_BASE_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

#if defined(__SANITIZE_THREAD__)
#define US_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define US_TSAN 1
#endif
#endif

/*
 * The explorer (explore/) may stop, switch or kill at the first; at the second, which
 * stands for sleeping, it goes on with somebody else. In its build each access says
 * where in the source it is (site.h).
 */
#ifdef US_EXPLORE
struct us_site {
    const char *file, *func;
    struct us_site *same; /* the first of those with this file and line */
    uint32_t line;
    uint32_t stops, kills; /* how often an actor was left there, or died there */
    bool own;              /* of memory that its process alone has */
};
void us_point(struct us_site *site);
bool us_wait_point(void);
#define US_AT           struct us_site *us_site, /* before the other parameters */
#define US_POINT()      us_point(us_site)
#define US_WAIT_POINT() us_wait_point()
#else
#define US_AT
#define US_POINT()      ((void)0)
#define US_WAIT_POINT() false
#endif

#define US_DEFINE_ATOMICS(bits, type)                                                  \
    static inline type us_load_relaxed##bits(US_AT const type *p)                      \
    {                                                                                  \
        US_POINT();                                                                    \
        return __atomic_load_n(p, __ATOMIC_RELAXED);                                   \
    }                                                                                  \
    static inline type us_load_acquire##bits(US_AT const type *p)                      \
    {                                                                                  \
        US_POINT();                                                                    \
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);                                   \
    }                                                                                  \
    static inline void us_store_relaxed##bits(US_AT type *p, type v)                   \
    {                                                                                  \
        US_POINT();                                                                    \
        __atomic_store_n(p, v, __ATOMIC_RELAXED);                                      \
    }                                                                                  \
    static inline void us_store_release##bits(US_AT type *p, type v)                   \
    {                                                                                  \
        US_POINT();                                                                    \
        __atomic_store_n(p, v, __ATOMIC_RELEASE);                                      \
    }                                                                                  \
    /* On failure *expected is what was found. */                                      \
    static inline bool us_cas_acq_rel##bits(US_AT type *p, type *expected, type v)     \
    {                                                                                  \
        US_POINT();                                                                    \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_ACQ_REL,    \
                                           __ATOMIC_ACQUIRE);                          \
    }                                                                                  \
    static inline type us_fetch_add_relaxed##bits(US_AT type *p, type v)               \
    {                                                                                  \
        US_POINT();                                                                    \
        return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);                             \
    }                                                                                  \
    static inline type us_fetch_add_acq_rel##bits(US_AT type *p, type v)               \
    {                                                                                  \
        US_POINT();                                                                    \
        return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);                             \
    }                                                                                  \
    static inline type us_exchange_acq_rel##bits(US_AT type *p, type v)                \
    {                                                                                  \
        US_POINT();                                                                    \
        return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL);                            \
    }

US_DEFINE_ATOMICS(16, uint16_t)
US_DEFINE_ATOMICS(32, uint32_t)
US_DEFINE_ATOMICS(64, uint64_t)

static inline uint64_t us_fetch_or_acq_rel64(US_AT uint64_t *p, uint64_t v)
{
    US_POINT();
    return __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL);
}

static inline uint64_t us_fetch_and_acq_rel64(US_AT uint64_t *p, uint64_t v)
{
    US_POINT();
    return __atomic_fetch_and(p, v, __ATOMIC_ACQ_REL);
}

/* Private words and pointers that several threads of this process share. */
#define us_load_pointer(p)     __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define us_store_pointer(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

/* Counters that may lose an update when two threads share them, as in the kernel. */
static inline void us_count64(uint64_t *p, uint64_t n)
{
    __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

/* Keeps the compiler, not the processor, from reordering. */
static inline void us_compiler_barrier(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* Everything before is seen by all before everything after. */
static inline void us_fence(void)
{
#if defined(US_TSAN)
    static uint32_t word; /* ThreadSanitizer does not know fences */

    (void)__atomic_fetch_add(&word, 1, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

static inline void us_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Two words that change together: the double-word compare-and-swap of SLUB. */
struct us_pair {
    uint64_t lo;
    uint64_t hi;
} __attribute__((aligned(16)));

/*
 * Swaps *p from `old` to `new` if both words still match; acquire and release.
 * `p` is 16-byte aligned.
 */
static inline bool us_cas_pair(US_AT struct us_pair *p, struct us_pair old,
                               struct us_pair new)
{
    US_POINT();
#if defined(US_TSAN)
    unsigned __int128 expected = ((unsigned __int128)old.hi << 64) | old.lo;
    unsigned __int128 desired = ((unsigned __int128)new.hi << 64) | new.lo;
    return __atomic_compare_exchange_n((unsigned __int128 *)(void *)p, &expected,
                                       desired, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
#elif defined(__x86_64__)
    bool done;

    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(done), "+m"(*p), "+a"(old.lo), "+d"(old.hi)
                     : "b"(new.lo), "c"(new.hi)
                     : "memory");
    return done;
#elif defined(__aarch64__)
    uint64_t lo, hi;
    uint32_t failed;

    __asm__ volatile("1: ldaxp %0, %1, [%3]\n"
                     "   cmp   %0, %4\n"
                     "   ccmp  %1, %5, #0, eq\n"
                     "   mov   %w2, #1\n"
                     "   b.ne  2f\n"
                     "   stlxp %w2, %6, %7, [%3]\n"
                     "   cbnz  %w2, 1b\n"
                     "   b     3f\n"
                     "2: clrex\n"
                     "3:"
                     : "=&r"(lo), "=&r"(hi), "=&r"(failed)
                     : "r"(p), "r"(old.lo), "r"(old.hi), "r"(new.lo), "r"(new.hi)
                     : "cc", "memory");
    return failed == 0;
#else
#error "uslub needs a double-word compare-and-swap: x86-64 or aarch64"
#endif
}

/*
 * A word of object memory that its owner may be writing at this very moment: the value
 * may be garbage and must not be used before a compare-and-swap has shown that it was
 * not. A forged freelist may put it off its alignment.
 */
__attribute__((no_sanitize("thread", "alignment"))) static inline uint64_t
us_load_speculative64(US_AT const uint64_t *p)
{
    US_POINT();
    return *(const volatile uint64_t *)p;
}

#ifdef US_EXPLORE
#include "base/site.h"
#endif

#endif
