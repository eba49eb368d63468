/* SPDX-License-Identifier: MIT */
/*
 * main_killer.c - which trials there are, and each of them in a process of its own.
 *
 *   killer [OPERATION...]             a part, without slow ones: `make test`
 *   killer deep [OPERATION...]        every instruction, but for loops: `make check`
 *   killer full [OPERATION...]        every instruction in each way: an hour
 *   killer OPERATION K [MODE [SCRIPT]]  one trial, as a violation prints it
 *
 * Exit status 0: all is well; 1: violations were printed; 77: nobody may trace here.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "killer.h"

#define PATIENCE_S 10 /* for one trial, which takes milliseconds */
#define GIVE_UP    8  /* violations of one mode of one operation */

static struct board *board; /* of the trial that runs */
static struct path *paths;  /* of operations, as they become known */
static uint64_t *pc_room, *step_count;
static uint64_t library_start, library_end;
static uint64_t trials, strayed, violations;

static size_t operation_count(void)
{
    return slab_operation_count + sharing_operation_count;
}

static const struct operation *operation_at(size_t i)
{
    return i < slab_operation_count ? &slab_operations[i]
                                    : &sharing_operations[i - slab_operation_count];
}

static const struct operation *find_operation(const char *name)
{
    for (size_t i = 0; i < operation_count(); i++) {
        if (strcmp(operation_at(i)->name, name) == 0) {
            return operation_at(i);
        }
    }
    return NULL;
}

static struct path *path_of(const struct operation *op)
{
    size_t i = 0;

    while (operation_at(i) != op) {
        i++;
    }
    return &paths[i];
}

/* ---- the victim ---- */

static void fill_what_it_got(struct scene *s)
{
    for (uint32_t i = 0; i < s->board->got_count; i++) {
        memset(us_pointer(s->arena, s->board->got[i]), FILL_VICTIM,
               s->board->got_bytes);
    }
    for (uint32_t i = 0; i < s->board->held_count[s->who]; i++) {
        const struct held *h = &s->board->held[s->who][i];
        const void *object = us_pointer(s->arena, h->offset);

        EXPECT(s, h->offset == 0 || h->subject || intact(s, object, h->bytes, h->fill),
               "object %u of the victim is damaged", i);
    }
}

static void stage(struct scene *s, void (*work)(struct scene *))
{
    if (work != NULL) {
        work(s);
    }
    (void)raise(SIGSTOP);
}

static void victim_main(struct scene *s, enum who who)
{
    s->who = who;
    trace_me();
    stage(s, s->operation->first);
    stage(s, s->operation->then);
    stage(s, s->operation->act);
    stage(s, s->operation->early ? NULL : fill_what_it_got);
    _exit(0);
}

static pid_t spawn(struct scene *s, enum who who)
{
    pid_t pid = fork();

    EXPECT(s, pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
        victim_main(s, who);
    }
    EXPECT(s, trace_wait(pid) == SIGSTOP, "the victim is not traced");
    return pid;
}

static void next_stage(struct scene *s, pid_t pid, const char *what)
{
    EXPECT(s, trace_go(pid) == SIGSTOP, "the victim died: %s", what);
}

/* Brings it to the first instruction of the operation; the address of its caller. */
static uint64_t prepare(struct scene *s, pid_t pid)
{
    uint64_t returns;

    if (s->pin == NULL) {
        scene_pin(s);
    }
    next_stage(s, pid, "its first steps");
    if (s->operation->others != NULL) {
        s->operation->others(s);
    }
    next_stage(s, pid, "before the operation");
    if (s->operation->before != NULL) {
        s->operation->before(s);
    }
    returns = trace_enter(pid, s->operation->act);
    EXPECT(s, returns != 0, "the operation is not entered");
    return returns;
}

/* ---- one trial; this process is the world ---- */

/* Somebody dies in the middle of an operation, before the one that is tried. */
static void casualty(struct scene *s)
{
    const struct operation *op = find_operation(s->operation->casualty);
    const struct path *path = path_of(op);
    struct scene other = *s;
    bool elsewhere;
    pid_t pid;

    other.operation = op;
    pid = spawn(&other, CASUALTY);
    (void)prepare(&other, pid);
    if (s->operation->permille != 0) {
        (void)trace_reach(pid, path, path->count * s->operation->permille / 1000,
                          &elsewhere);
    }
    trace_kill(pid);
}

static uint64_t count_of(struct scene *s)
{
    return us_cache_counter(s->cache, s->operation->counts, 0) +
           us_cache_counter(s->cache, s->operation->counts, 1);
}

/* All of it, by single steps. */
static void record_steps(struct scene *s, pid_t pid, uint64_t returns)
{
    uint64_t before = count_of(s);

    EXPECT(s, trace_record(pid, returns, pc_room, step_count) == SIGTRAP,
           "the operation does not end");
    EXPECT(s, s->operation->counts == 0 || count_of(s) > before,
           "%s is not counted: this is not the path that is meant",
           us_stat_name(s->operation->counts));
}

/* True: in the middle of it. */
static bool to_instruction(struct scene *s, pid_t pid)
{
    bool elsewhere = false;
    int signal = trace_reach(pid, path_of(s->operation), s->at, &elsewhere);

    s->board->strayed += elsewhere;
    EXPECT(s, signal == SIGTRAP || signal == SIGSTOP, "signal %d in the operation",
           signal);
    return signal == SIGTRAP;
}

static void finish(struct scene *s, pid_t pid, bool inside)
{
    us_err err;

    if (inside) {
        next_stage(s, pid, "in the operation");
    }
    err = s->board->err[VICTIM];
    EXPECT(s, err == US_OK, "the operation failed: %s", us_error_name(err));
    next_stage(s, pid, "after the operation");
}

static void trial(const struct operation *op, enum mode mode, uint64_t at,
                  unsigned script)
{
    struct scene s = {.mode = mode, .operation = op, .at = at, .board = board};
    uint64_t returns;
    bool inside = true;
    pid_t pid = 0;

    s.script = script;
    (void)alarm(PATIENCE_S);
    if (op->early) {
        pid = spawn(&s, VICTIM);
    }
    scene_open(&s);
    if (!op->early) {
        pid = spawn(&s, VICTIM);
    }
    if (mode > KILL && op->casualty == NULL && strchr(script_of(&s), 'd') != NULL) {
        struct scene other = s;

        other.operation = &doomed_operation;
        s.doomed = spawn(&other, CASUALTY);
    }
    returns = prepare(&s, pid);
    if (op->casualty != NULL) {
        casualty(&s);
    }
    if (mode == RECORD) {
        record_steps(&s, pid, returns);
    } else {
        inside = to_instruction(&s, pid);
    }
    if (mode == LATE || mode == STOP) {
        scene_rival(&s, script_of(&s));
    }
    if (mode == RECORD || mode == STOP) {
        finish(&s, pid, inside);
    }
    trace_kill(pid);
    scene_check(&s);
    _exit(0);
}

/* ---- trials from outside ---- */

static bool run_trial(const struct operation *op, enum mode mode, uint64_t at,
                      unsigned script)
{
    int status = 0;
    pid_t pid;

    memset(board, 0, sizeof(*board));
    memset(board->err, 0xff, sizeof(board->err));
    trials++;
    pid = fork();
    if (pid == 0) {
        trial(op, mode, at, script);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        perror("killer");
        exit(2);
    }
    strayed += board->strayed;
    if (status == 0) {
        return true;
    }
    if (WIFSIGNALED(status)) {
        (void)printf("killer: %s %llu %s %u: the world %s\n", op->name,
                     (unsigned long long)at, mode_names[mode], script,
                     WTERMSIG(status) == SIGALRM ? "hangs"
                                                 : strsignal(WTERMSIG(status)));
    }
    violations++;
    return false;
}

/* Single-steps all of it, once. */
static bool record(const struct operation *op)
{
    struct path *path = path_of(op);

    if (path->count != 0) {
        return true;
    }
    if (op->casualty != NULL && !record(find_operation(op->casualty))) {
        return false;
    }
    if (!run_trial(op, RECORD, 0, 0)) {
        return false;
    }
    path->count = *step_count;
    path->pc = malloc((path->count + 1) * sizeof(*path->pc));
    if (path->pc == NULL) {
        return false;
    }
    memcpy(path->pc, pc_room, (path->count + 1) * sizeof(*path->pc));
    return path_plan(path);
}

static void find_library(void)
{
    uint64_t inside = (uint64_t)(uintptr_t)us_alloc_on;
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];

    while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
        unsigned long long start = 0, end = 0;

        if (sscanf(line, "%llx-%llx", &start, &end) == 2 && inside >= start &&
            inside < end) {
            library_start = start;
            library_end = end;
        }
    }
    if (maps != NULL) {
        (void)fclose(maps);
    }
}

/* ---- which instructions ---- */

struct plan {
    uint64_t all;    /* an operation of so many instructions is tried at each */
    uint32_t often;  /* else: an instruction of the library, the first times it runs, */
    uint64_t others; /* and so many of all the rest */
    uint32_t turns; /* death takes place at each of them; being stopped, and death after
                     * that, once in so many; 0: one of the three at each, in turn */
    uint64_t scripts; /* but each of the three, with every script, where the operation
                       * has no more instructions */
};
static const struct plan quick = {.all = 260, .often = 0, .others = 24};
static const struct plan deep = {
    .all = 2200, .often = 2, .others = 150, .turns = 4, .scripts = 210};
static const struct plan full = {.all = UINT64_MAX, .turns = 1, .scripts = 1500};

/* Within a string instruction: the first repetitions, the middle, the last. */
static bool dull_repetition(const struct path *path, uint64_t k)
{
    uint64_t first = k, last = k;

    while (first > 0 && path->pc[first - 1] == path->pc[k]) {
        first--;
    }
    while (last < path->count && path->pc[last + 1] == path->pc[k]) {
        last++;
    }
    return k > first + 1 && k < last && k != (first + last) / 2;
}

static uint64_t stride_of(const struct path *path, const struct plan *plan)
{
    return path->count > plan->all ? path->count / plan->others + 1 : 1;
}

/* Of very long ones, which are loops and libc, an instruction is tried once. */
static uint32_t often(const struct path *path, const struct plan *plan)
{
    return path->count / 4 > plan->all && plan->often > 1 ? 1 : plan->often;
}

static bool wanted(const struct path *path, const struct plan *plan, uint64_t k)
{
    bool ours = path->pc[k] >= library_start && path->pc[k] < library_end;

    if (k == path->count) {
        return true;
    }
    if (path->count > plan->all && !(ours && path->hits[k] <= often(path, plan)) &&
        k % stride_of(path, plan) != stride_of(path, plan) / 2) {
        return false;
    }
    return !dull_repetition(path, k);
}

static double seconds(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static bool mode_wanted(const struct plan *plan, enum mode mode, uint64_t turn)
{
    if (plan->turns == 0) {
        return turn % 3 == (uint64_t)mode - KILL;
    }
    return mode == KILL ||
           (turn + (mode == LATE ? plan->turns / 2 : 0)) % plan->turns == 0;
}

static void tell_operation(const struct operation *op, const struct plan *plan,
                           const uint64_t done[], bool bad, double took)
{
    const struct path *path = path_of(op);
    char which[64] = "each";

    if (path->count > plan->all) {
        (void)snprintf(which, sizeof(which),
                       plan->often ? "first %u of each + 1 in %llu" : "%.0u1 in %llu",
                       often(path, plan), (unsigned long long)stride_of(path, plan));
    }
    (void)printf("%-15s %6llu instructions (%s): %llu killed, %llu killed late, "
                 "%llu resumed, %.1f s%s\n",
                 op->name, (unsigned long long)path->count, which,
                 (unsigned long long)done[KILL], (unsigned long long)done[LATE],
                 (unsigned long long)done[STOP], took, bad ? ", VIOLATIONS" : "");
}

static void try_operation(const struct operation *op, const struct plan *plan)
{
    const struct path *path = path_of(op);
    uint64_t done[STOP + 1] = {0}, bad[STOP + 1] = {0}, turn = 0;
    uint64_t before = violations;
    double start = seconds();

    if (!record(op)) {
        (void)printf("killer: %s: cannot be recorded\n", op->name);
        return;
    }
    for (uint64_t k = 0; k <= path->count; k++) {
        if (!wanted(path, plan, k)) {
            continue;
        }
        for (int mode = KILL; mode <= STOP; mode++) {
            unsigned first = script_usual(k), last = first;

            if (mode != KILL && path->count <= plan->scripts) {
                first = 0;
                last = SCRIPTS - 1;
            } else if (!mode_wanted(plan, (enum mode)mode, turn)) {
                continue;
            }
            for (unsigned n = first; n <= last && bad[mode] < GIVE_UP; n++) {
                done[mode]++;
                bad[mode] += !run_trial(op, (enum mode)mode, k, n);
            }
        }
        turn++;
    }
    tell_operation(op, plan, done, violations != before, seconds() - start);
}

/* ---- the program ---- */

/* The same addresses in every run, and no lazy binding in the middle of an operation.
 */
static void settle(char **argv)
{
    cpu_set_t cpus, one;

    if (getenv("LD_BIND_NOW") == NULL) {
        (void)setenv("LD_BIND_NOW", "1", 1);
        (void)personality(ADDR_NO_RANDOMIZE);
        (void)execv("/proc/self/exe", argv);
    }
    if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0) {
        CPU_ZERO(&one);
        for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (CPU_ISSET(cpu, &cpus)) {
                CPU_SET(cpu, &one);
                break;
            }
        }
        (void)sched_setaffinity(0, sizeof(one), &one);
    }
}

static void *shared_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED) {
        perror("killer");
        exit(2);
    }
    return memory;
}

static int replay(const struct operation *op, char **argv, int argc)
{
    enum mode mode = KILL;
    uint64_t k = strtoull(argv[2], NULL, 10);
    unsigned script = argc > 4 ? (unsigned)atoi(argv[4]) % SCRIPTS : script_usual(k);

    for (int i = KILL; argc > 3 && i <= STOP; i++) {
        mode = strcmp(mode_names[i], argv[3]) == 0 ? (enum mode)i : mode;
    }
    if (!record(op) || k > path_of(op)->count) {
        (void)printf("killer: %s has no instruction %s\n", op->name, argv[2]);
        return 2;
    }
    if (run_trial(op, mode, k, script)) {
        (void)printf("killer: %s %llu %s %u: nothing wrong%s (%llu instructions)\n",
                     op->name, (unsigned long long)k, mode_names[mode], script,
                     strayed ? ", but it is not where the record says" : "",
                     (unsigned long long)path_of(op)->count);
    }
    if (path_of(op)->pc[k] >= library_start && path_of(op)->pc[k] < library_end) {
        (void)printf("at 0x%llx of the library's code\n",
                     (unsigned long long)(path_of(op)->pc[k] - library_start));
    }
    return violations != 0;
}

static const struct plan *plan_of(const char *word)
{
    return strcmp(word, "deep") == 0   ? &deep
           : strcmp(word, "full") == 0 ? &full
                                       : &quick;
}

int main(int argc, char **argv)
{
    const struct plan *plan = plan_of(argc > 1 ? argv[1] : "");
    bool all = plan != &quick;
    const char *refused;
    double start = seconds();

    settle(argv);
    (void)setvbuf(stdout, NULL, _IOLBF, 0); /* nothing of it is in the children */
    refused = trace_refused();
    if (refused != NULL) {
        (void)printf("killer: skipped: %s\n", refused);
        return 77;
    }
    board = shared_memory(sizeof(*board));
    pc_room = shared_memory((PATH_MAX_STEPS + 1) * sizeof(*pc_room));
    step_count = shared_memory(sizeof(*step_count));
    paths = calloc(operation_count(), sizeof(*paths));
    find_library();
    if (argc > 2 && !all && find_operation(argv[1]) != NULL && argv[2][0] <= '9') {
        return replay(find_operation(argv[1]), argv, argc);
    }
    for (size_t i = 0; i < operation_count(); i++) {
        bool chosen = argc <= (all ? 2 : 1) && (all || !operation_at(i)->slow);

        for (int arg = all ? 2 : 1; arg < argc; arg++) {
            chosen |= strcmp(argv[arg], operation_at(i)->name) == 0;
        }
        if (chosen) {
            try_operation(operation_at(i), plan);
        }
    }
    (void)printf("killer: %llu trials, %llu strayed, %llu violations; %.1f s\n",
                 (unsigned long long)trials, (unsigned long long)strayed,
                 (unsigned long long)violations, seconds() - start);
    return violations != 0;
}
