/* SPDX-License-Identifier: MIT */
/*
 * trace_killer.c - one traced process: recorded once, then brought to any of its
 * instructions.
 *
 * A step costs some 10 to 40 us, so going to instruction k by steps alone would make
 * all of an operation quadratic. Instead a breakpoint is put where the record says it
 * takes the least: on k itself, counting how often it is met, or on an instruction
 * before it that is met less often, with steps from there. A string instruction is met
 * once per repetition, by steps and by breakpoints alike; a system call is one step.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "killer.h"

#if defined(__x86_64__)
#define PC         (void *)offsetof(struct user, regs.rip)
#define STACK      (void *)offsetof(struct user, regs.rsp)
#define BREAK(w)   (((w) & ~0xffL) | 0xccL)
#define BREAK_SIZE 1

static uint64_t pc_of(pid_t pid)
{
    return (uint64_t)ptrace(PTRACE_PEEKUSER, pid, PC, NULL);
}

static void set_pc(pid_t pid, uint64_t pc)
{
    (void)ptrace(PTRACE_POKEUSER, pid, PC, (void *)pc);
}

/* In the first instruction of a function. */
static uint64_t caller_of(pid_t pid)
{
    uint64_t stack = (uint64_t)ptrace(PTRACE_PEEKUSER, pid, STACK, NULL);

    return (uint64_t)ptrace(PTRACE_PEEKDATA, pid, (void *)stack, NULL);
}
#else
#define BREAK(w)   (w)
#define BREAK_SIZE 0

static uint64_t pc_of(pid_t pid)
{
    (void)pid;
    return 0;
}

static void set_pc(pid_t pid, uint64_t pc)
{
    (void)pid, (void)pc;
}

static uint64_t caller_of(pid_t pid)
{
    (void)pid;
    return 0;
}
#endif

void trace_me(void)
{
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
        _exit(77);
    }
    (void)raise(SIGSTOP);
}

int trace_wait(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return SIGNAL_GONE;
        }
    }
    return WIFSTOPPED(status) ? WSTOPSIG(status) : SIGNAL_GONE;
}

int trace_go(pid_t pid)
{
    (void)ptrace(PTRACE_CONT, pid, NULL, NULL);
    return trace_wait(pid);
}

int trace_step(pid_t pid)
{
    (void)ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
    return trace_wait(pid);
}

void trace_kill(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    while (trace_wait(pid) != SIGNAL_GONE) {
    }
}

const char *trace_refused(void)
{
#if !defined(__x86_64__)
    return "breakpoints are written for x86-64 only";
#else
    pid_t child = fork();
    int status = 0, signal;

    if (child == 0) {
        trace_me();
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        return "no child could be made";
    }
    if (!WIFSTOPPED(status)) {
        return "ptrace(PTRACE_TRACEME) is forbidden here (seccomp, Yama or a container)";
    }
    signal = trace_step(child);
    trace_kill(child);
    return signal == SIGTRAP ? NULL : "ptrace(PTRACE_SINGLESTEP) does not step here";
#endif
}

/* ---- breakpoints ---- */

/* Runs to an address that is about to be executed for the `hits`th time from here. */
static int run_to(pid_t pid, uint64_t address, uint32_t hits)
{
    long word, planted;

    errno = 0;
    word = ptrace(PTRACE_PEEKTEXT, pid, (void *)address, NULL);
    planted = BREAK(word);
    for (uint32_t hit = 1;; hit++) {
        int signal;

        if (pc_of(pid) != address) {
            (void)ptrace(PTRACE_POKETEXT, pid, (void *)address, (void *)planted);
            signal = trace_go(pid);
            if (signal != SIGNAL_GONE) {
                (void)ptrace(PTRACE_POKETEXT, pid, (void *)address, (void *)word);
            }
            if (signal != SIGTRAP) {
                return signal;
            }
            set_pc(pid, pc_of(pid) - BREAK_SIZE);
        }
        if (hit == hits) {
            return SIGTRAP;
        }
        signal = trace_step(pid);
        if (signal != SIGTRAP) {
            return signal;
        }
    }
}

uint64_t trace_enter(pid_t pid, void (*function)(struct scene *))
{
    int signal;

    (void)ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)PTRACE_O_EXITKILL);
    signal = run_to(pid, (uint64_t)(uintptr_t)function, 1);
    return signal == SIGTRAP ? caller_of(pid) : 0;
}

/* ---- the record ---- */

int trace_record(pid_t pid, uint64_t returns, uint64_t *pc, uint64_t *count)
{
    *count = 0;
    for (;;) {
        int signal;

        pc[*count] = pc_of(pid);
        if (pc[*count] == returns) {
            return SIGTRAP;
        }
        if (++*count == PATH_MAX_STEPS) {
            return SIGXCPU;
        }
        signal = trace_step(pid);
        if (signal != SIGTRAP) {
            return signal;
        }
    }
}

struct met {
    uint64_t pc;
    uint32_t count;
};

static struct met *meet(struct met *table, uint64_t mask, uint64_t pc)
{
    uint64_t at = (pc * 0x9e3779b97f4a7c15ULL) >> 32 & mask;

    while (table[at].pc != 0 && table[at].pc != pc) {
        at = (at + 1) & mask;
    }
    table[at].pc = pc;
    return &table[at];
}

/* A hit that is not the last costs a stop and a step; a step costs one. */
bool path_plan(struct path *path)
{
    uint64_t mask = 1023, cost = 0;
    struct met *table;

    while (mask < path->count * 2) {
        mask = mask * 2 + 1;
    }
    table = calloc(mask + 1, sizeof(*table));
    path->hits = calloc(path->count + 1, sizeof(*path->hits));
    path->anchor = calloc(path->count + 1, sizeof(*path->anchor));
    if (table == NULL || path->hits == NULL || path->anchor == NULL) {
        return false;
    }
    path->anchor[0] = NO_ANCHOR;
    for (uint64_t k = 0; k <= path->count; k++) {
        path->hits[k] = ++meet(table, mask, path->pc[k])->count;
        cost++;
        if (k > 0) {
            path->anchor[k] = path->anchor[k - 1];
        }
        if (k > 0 && 2ull * path->hits[k] < cost) {
            path->anchor[k] = (uint32_t)k;
            cost = 2ull * path->hits[k];
        }
    }
    free(table);
    return true;
}

int trace_reach(pid_t pid, const struct path *path, uint64_t at, bool *strayed)
{
    uint64_t from = 0;
    int signal = SIGTRAP;

    if (path->anchor[at] != NO_ANCHOR) {
        from = path->anchor[at];
        signal = run_to(pid, path->pc[from], path->hits[from]);
    }
    for (; signal == SIGTRAP && from < at; from++) {
        signal = trace_step(pid);
    }
    *strayed = signal != SIGTRAP || pc_of(pid) != path->pc[at];
    return signal;
}
