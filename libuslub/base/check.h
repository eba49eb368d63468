/* SPDX-License-Identifier: MIT */
/*
 * check.h - the kinds of claim that the engine makes.
 *
 *  US_ASSERT(x)   we can prove it: aborts, debug builds only.
 *  US_STATIC(x)   layout, checked by the compiler.
 *
 * What another process could have broken is no assertion: it is tested with `if` and
 * ends in us_fail(US_ECORRUPT, ...), see error.h.
 */
#ifndef US_BASE_CHECK_H
#define US_BASE_CHECK_H

#ifdef US_DEBUG_CHECKS
_Noreturn void us_assert_failed(const char *file, int line, const char *claim);
#define US_ASSERT(x) ((x) ? (void)0 : us_assert_failed(__FILE__, __LINE__, #x))
#else
#define US_ASSERT(x) ((void)sizeof(x))
#endif

#define US_STATIC(x) _Static_assert(x, #x)

#define US_LIKELY(x)   __builtin_expect(!!(x), 1)
#define US_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define US_COLD        __attribute__((cold, noinline))
#define US_INLINE      static inline __attribute__((always_inline))

#endif
