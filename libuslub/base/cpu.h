/* SPDX-License-Identifier: MIT */
/*
 * cpu.h - which CPU runs this thread, and what the machine looks like.
 *
 * The number is a hint: by the time it is used the thread may run elsewhere. Any CPU
 * slot is correct, the nearest is fast.
 */
#ifndef US_BASE_CPU_H
#define US_BASE_CPU_H

#include <sched.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The rseq area that glibc 2.35 and later register for every thread; weak, so that the
 * library also loads where there is none. Only the documented ABI is used: cpu_id is
 * read.
 */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

/* Where the CPU number is, counted from the thread pointer of any thread. */
extern __attribute__((visibility("hidden"))) ptrdiff_t us_cpu_id_offset;
uint32_t us_cpu_ask(void);

/* UINT32_MAX: only us_cpu_ask() knows. */
static inline uint32_t us_cpu_quick(void)
{
    const char *thread = __builtin_thread_pointer();

    return *(const volatile uint32_t *)(const void *)(thread + us_cpu_id_offset);
}

static inline uint32_t us_cpu_now(void)
{
    uint32_t cpu = us_cpu_quick(); /* negative while the kernel does not say */

    return __builtin_expect((int32_t)cpu >= 0, 1) ? cpu : us_cpu_ask();
}

/* A counter that runs on by itself; for chance, not for time. */
uint64_t us_ticks(void);

unsigned us_cpu_count(void);  /* CPUs that the machine may have */
unsigned us_node_count(void); /* memory nodes that it has */
unsigned us_node_of_cpu(unsigned cpu);
unsigned us_node_distance(unsigned from, unsigned to); /* 10: local */

#endif
