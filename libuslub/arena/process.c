/* SPDX-License-Identifier: MIT */
/*
 * process.c - who takes part: a slot per process, a slot per thread.
 *
 * A process is alive as long as it holds the record lock on its byte of the arena's
 * file: the kernel drops it with the process, whatever its last words were. The lock
 * belongs to our open file description, so that closing some other descriptor of the
 * same file (which the user may have been passed) does not drop it; a forked child
 * opens its own (arena.c). Everything else in a slot is for people. The lock is taken
 * before the slot is written, so a crash in between leaves a slot that is simply free.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arena/arena.h"

_Thread_local struct us_tls us_tls = {.id = US_TLS_NOBODY};

/*
 * A thread slot that a thread of this process holds. The token is a robust mutex that
 * the thread holds for life: who finds it orphaned knows that the thread vanished
 * without its destructors. It is private memory: other processes cannot spoil it.
 */
struct held {
    struct held *next;        /* of the same thread */
    struct held *later, **at; /* of all threads; registry */
    uint64_t id;
    struct us_thread *thread;
    pthread_mutex_t token;
};
static struct held *all_held;
/*
 * Not the value of the key: a thread that vanished leaves its values to the next one
 * that gets its stack, while a thread's own variables are always new.
 */
static _Thread_local struct held *my_held;
static pthread_key_t held_key;
static pthread_once_t held_once = PTHREAD_ONCE_INIT;

bool us_fence_join(void)
{
    return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

bool us_fence_everywhere(void)
{
    return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0;
}

struct us_process *us_process_at(const struct us_arena *a, uint32_t slot)
{
    return (struct us_process *)us_at(a, a->at.processes) + slot;
}

struct us_thread *us_thread_at(const struct us_arena *a, uint32_t slot)
{
    return (struct us_thread *)us_at(a, a->at.threads) + slot;
}

uint32_t us_thread_slot(const struct us_arena *a, const struct us_thread *t)
{
    return (uint32_t)(t - (const struct us_thread *)us_at(a, a->at.threads));
}

/* Takes (F_WRLCK), drops (F_UNLCK) or asks about the byte of one slot. */
static int slot_lock(int fd, uint32_t slot, int command, short type, short *found)
{
    struct flock lock = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = (off_t)(US_LOCK_BASE + slot),
        .l_len = 1,
    };
    int failed = fcntl(fd, command, &lock);

    if (found != NULL) {
        *found = lock.l_type;
    }
    return failed;
}

bool us_process_alive(const struct us_arena *a, uint32_t slot)
{
    short found = F_UNLCK;

    if (slot + 1 == us_me(a)) {
        return true;
    }
    return slot_lock(a->fd, slot, F_OFD_GETLK, F_WRLCK, &found) != 0 ||
           found != F_UNLCK;
}

static uint64_t start_time(void)
{
    char line[1024], *field;
    unsigned long long ticks = 0;
    FILE *file = fopen("/proc/self/stat", "r");

    if (file == NULL) {
        return 0;
    }
    if (fgets(line, sizeof(line), file) != NULL &&
        (field = strrchr(line, ')')) != NULL) {
        /* Field 22, counted from the state that follows the command's name. */
        for (int skip = 0; field != NULL && skip < 20; skip++) {
            field = strchr(field + 1, ' ');
        }
        if (field != NULL) {
            ticks = strtoull(field, NULL, 10);
        }
    }
    (void)fclose(file);
    return ticks;
}

/* ---- taking a slot ---- */

/* Writes who we are into a slot whose byte is locked. */
static void introduce(struct us_arena *a, uint32_t slot)
{
    struct us_process *p = us_process_at(a, slot);
    struct stat ns = {0};

    (void)stat("/proc/thread-self/ns/pid", &ns);
    us_store_relaxed32((uint32_t *)&p->pid, (uint32_t)getpid());
    us_store_relaxed64(&p->start_time, start_time());
    us_store_relaxed64(&p->pid_namespace, ns.st_ino);
    us_store_relaxed64(&p->noticed_ns, 0);
    us_store_release32(&p->state, US_PROCESS_LIVE);
}

/* Locks the byte of a free slot through `fd`; US_PROCESSES: none is free. */
static uint32_t take_slot(struct us_arena *a, int fd)
{
    for (uint32_t slot = 0; slot < US_PROCESSES; slot++) {
        struct us_process *p = us_process_at(a, slot);

        if (us_load_acquire32(&p->state) != US_PROCESS_FREE ||
            slot_lock(fd, slot, F_OFD_SETLK, F_WRLCK, NULL) != 0) {
            continue;
        }
        if (us_load_acquire32(&p->state) == US_PROCESS_FREE) {
            us_store_release32(&p->state, US_PROCESS_STARTING);
            us_store_relaxed32(&p->generation, us_load_relaxed32(&p->generation) + 1);
            return slot;
        }
        (void)slot_lock(fd, slot, F_OFD_SETLK, F_UNLCK, NULL);
    }
    return US_PROCESSES;
}

/* Whoever waits for a lock of theirs sees it without asking the kernel. */
static void mark_threads_dead(struct us_arena *a, uint32_t slot)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high);

    for (uint32_t i = 0; i < high && i < US_THREADS; i++) {
        uint32_t *state = &us_thread_at(a, i)->state;

        if (us_load_relaxed32(state) == slot + 1) {
            us_store_release32(state, (slot + 1) | US_THREAD_DEAD);
        }
    }
}

static void enter(struct us_arena *a, uint32_t slot)
{
    introduce(a, slot);
    us_store_relaxed16(&a->self->owner, (uint16_t)(slot + 1));
    us_store_release64(&a->self->id, us_registry_next_id());
}

/*
 * No slot is free: we take the place of somebody who is dead, by his own lock, and give
 * back what he had as if it were ours.
 */
static bool succeed_a_dead_one(struct us_arena *a)
{
    for (uint32_t slot = 0; slot < US_PROCESSES; slot++) {
        if (slot_lock(a->fd, slot, F_OFD_SETLK, F_WRLCK, NULL) != 0) {
            continue;
        }
        mark_threads_dead(a, slot);
        enter(a, slot);
        if (us_recover_slot(a, slot, true)) {
            return true;
        }
        us_store_release64(&a->self->id, 0);
        us_store_relaxed16(&a->self->owner, 0);
        (void)slot_lock(a->fd, slot, F_OFD_SETLK, F_UNLCK, NULL);
    }
    return false;
}

us_err us_process_register(struct us_arena *a)
{
    uint32_t slot;

    if (!us_fence_join()) {
        us_store_release32(&a->header->no_fence, 1);
    }
    slot = take_slot(a, a->fd);
    if (slot < US_PROCESSES) {
        enter(a, slot);
        return US_OK;
    }
    if (succeed_a_dead_one(a)) {
        return US_OK;
    }
    return us_fail(
        US_ELIMIT,
        "arena '%s': all %u participant slots are taken by living processes; detach "
        "one, or use another arena",
        a->name, US_PROCESSES);
}

us_err us_process_reserve(struct us_arena *a, uint32_t *slot, int *fd)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", a->fd);
    *fd = open(path, O_RDWR | O_CLOEXEC);
    if (*fd < 0) {
        return us_fail_errno(US_ESYSTEM, "arena '%s': no descriptor for a child",
                             a->name);
    }
    *slot = take_slot(a, *fd);
    if (*slot < US_PROCESSES) {
        struct us_process *p = us_process_at(a, *slot);

        us_store_relaxed32((uint32_t *)&p->pid, 0); /* until it says so itself */
        us_store_relaxed64(&p->noticed_ns, 0);
        us_store_release32(&p->state, US_PROCESS_LIVE);
        return US_OK;
    }
    (void)close(*fd);
    *fd = -1;
    return us_fail(US_ELIMIT, "arena '%s': no participant slot for a child", a->name);
}

/* Nobody else can take the slot, or settle it, meanwhile. */
bool us_process_claim(struct us_arena *a, uint32_t slot)
{
    struct us_process *p = us_process_at(a, slot);

    if (us_load_acquire32(&p->state) == US_PROCESS_FREE || slot + 1 == us_me(a) ||
        slot_lock(a->fd, slot, F_OFD_SETLK, F_WRLCK, NULL) != 0) {
        return false;
    }
    if (us_load_acquire32(&p->state) != US_PROCESS_FREE) {
        mark_threads_dead(a, slot);
        return true;
    }
    (void)slot_lock(a->fd, slot, F_OFD_SETLK, F_UNLCK, NULL);
    return false;
}

void us_process_release(struct us_arena *a, uint32_t slot, bool settled)
{
    if (settled) {
        us_store_release32(&us_process_at(a, slot)->state, US_PROCESS_FREE);
    }
    (void)slot_lock(a->fd, slot, F_OFD_SETLK, F_UNLCK, NULL);
}

void us_process_become(struct us_arena *a, uint32_t slot)
{
    enter(a, slot);
    (void)us_fence_join();
}

/* What was sent and is still on its way stays, with the slot, for others to settle. */
void us_process_unregister(struct us_arena *a)
{
    uint32_t slot = us_me(a) - 1u;
    uint32_t high = us_load_acquire32(&a->header->thread_high);
    bool clean = us_recover_slot(a, slot, false);

    for (uint32_t i = 0; clean && i < high && i < US_THREADS; i++) {
        struct us_thread *t = us_thread_at(a, i);

        if (us_load_acquire32(&t->state) == slot + 1) {
            us_store_release32(&t->state, 0);
        }
    }
    if (clean) {
        us_store_release32(&us_process_at(a, slot)->state, US_PROCESS_FREE);
    }
    (void)slot_lock(a->fd, slot, F_OFD_SETLK, F_UNLCK, NULL);
}

/* ---- threads ---- */

/* A thread ends: its slots go back, unless the arena has gone before. */
static void thread_exit(void *list);

static void make_key(void)
{
    (void)pthread_key_create(&held_key, thread_exit);
}

static void enlist(struct held *held)
{
    held->later = all_held;
    held->at = &all_held;
    if (all_held != NULL) {
        all_held->at = &held->later;
    }
    all_held = held;
}

/* The thread is gone, or going. In the middle of something: for a reaper to mend. */
static void drop_held(struct held *held)
{
    struct us_thread *t = held->thread;

    if (us_registry_find(held->id) != NULL) {
        bool inside = us_load_relaxed64(&t->intent) != 0 ||
                      us_load_relaxed32(&t->locks) != 0 ||
                      us_load_relaxed32(&t->changing) != 0;

        us_store_release32(&t->state,
                           inside ? us_load_relaxed32(&t->state) | US_THREAD_DEAD : 0);
    }
    *held->at = held->later;
    if (held->later != NULL) {
        held->later->at = held->at;
    }
    (void)pthread_mutex_unlock(&held->token);
    (void)pthread_mutex_destroy(&held->token);
    free(held);
}

static void thread_exit(void *unused)
{
    struct held *next;

    (void)unused;
    us_registry_lock();
    for (struct held *held = my_held; held != NULL; held = next) {
        next = held->next;
        drop_held(held);
    }
    my_held = NULL;
    us_registry_unlock();
    us_tls.id = US_TLS_NOBODY;
}

void us_threads_look(struct us_arena *a)
{
    us_registry_lock();
    for (struct held *held = all_held, *later; held != NULL; held = later) {
        later = held->later;
        if (held->id == us_self_id(a->self) &&
            pthread_mutex_trylock(&held->token) == EOWNERDEAD) {
            drop_held(held);
        }
    }
    us_registry_unlock();
}

/* The threads of the parent are none of the child's; their tokens stay unlocked. */
void us_threads_forget(void)
{
    all_held = NULL;
    my_held = NULL;
    (void)pthread_once(&held_once, make_key);
    (void)pthread_setspecific(held_key, NULL);
}

static struct us_thread *claim_slot(struct us_arena *a)
{
    for (uint32_t slot = 0; slot < US_THREADS; slot++) {
        struct us_thread *t = us_thread_at(a, slot);
        uint32_t free_state = 0, high;

        if (us_commit(a, (uint64_t)((char *)t - a->base), sizeof(*t)) != US_OK) {
            return NULL;
        }
        if (us_load_relaxed32(&t->state) != 0 ||
            !us_cas_acq_rel32(&t->state, &free_state, us_me(a))) {
            continue;
        }
        us_store_relaxed32(&t->tid, (uint32_t)syscall(SYS_gettid));
        us_store_release64(&t->intent, 0);
        us_store_relaxed32(&t->locks, 0);
        us_store_relaxed32(&t->changing, 0);
        high = us_load_relaxed32(&a->header->thread_high);
        while (high <= slot &&
               !us_cas_acq_rel32(&a->header->thread_high, &high, slot + 1)) {
        }
        return t;
    }
    us_fail(US_ELIMIT,
            "arena '%s': all %u thread slots are taken; let threads end or use "
            "another arena",
            a->name, US_THREADS);
    return NULL;
}

static bool make_token(pthread_mutex_t *token)
{
    pthread_mutexattr_t robust;
    bool made = pthread_mutexattr_init(&robust) == 0 &&
                pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST) == 0 &&
                pthread_mutex_init(token, &robust) == 0;

    return made && pthread_mutex_trylock(token) == 0; /* nobody else knows it yet */
}

/* What this thread held in arenas that have been detached since. */
static void drop_stale(void)
{
    struct held *next, *kept = NULL;

#ifdef US_EXPLORE
    return; /* all actors are one thread, and what the dead have begun is put back */
#endif
    for (struct held *held = my_held; held != NULL; held = next) {
        next = held->next;
        if (us_registry_find(held->id) == NULL) {
            drop_held(held);
        } else {
            held->next = kept;
            kept = held;
        }
    }
    my_held = kept;
}

/* A slot for this thread; the registry is locked. */
static struct held *hold_slot(struct us_arena *a)
{
    struct us_thread *t = claim_slot(a);
    struct held *held = t == NULL ? NULL : calloc(1, sizeof(*held));

    drop_stale();

    if (t == NULL) {
        return NULL;
    }
    if (held == NULL || !make_token(&held->token)) {
        us_store_release32(&t->state, 0);
        us_fail(US_ENOMEM, "no memory for the record of a thread");
        free(held);
        return NULL;
    }
    held->id = us_self_id(a->self);
    held->thread = t;
    held->next = my_held;
    my_held = held;
    (void)pthread_setspecific(held_key, held);
    enlist(held);
    return held;
}

static struct us_thread *register_thread(struct us_arena *a)
{
    struct held *held;

    (void)pthread_once(&held_once, make_key);
    us_registry_lock();
    if (us_self_id(a->self) == 0 && us_process_register(a) != US_OK) {
        us_registry_unlock();
        return NULL;
    }
    for (held = my_held; held != NULL; held = held->next) {
        if (held->id == us_self_id(a->self)) {
            break;
        }
    }
    if (held == NULL) {
        held = hold_slot(a);
    }
    us_registry_unlock();
    if (held == NULL) {
        return NULL;
    }
    us_tls.thread = held->thread;
    us_tls.id = held->id;
    return us_tls.thread;
}

/* A thread that is cancelled has no slot, or one that its end gives back. */
struct us_thread *us_thread_register(struct us_arena *a)
{
    struct us_thread *t;
    int cancel;

    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    t = register_thread(a);
    (void)pthread_setcancelstate(cancel, NULL);
    return t;
}

/* ---- looking ---- */

uint32_t us_arena_processes(us_arena *a, struct us_process_info *ret, uint32_t max)
{
    uint32_t count = 0;

    for (uint32_t slot = 0; slot < US_PROCESSES; slot++) {
        const struct us_process *p = us_process_at(a, slot);

        if (us_load_acquire32(&p->state) == US_PROCESS_FREE) {
            continue;
        }
        if (count < max) {
            ret[count].slot = slot;
            ret[count].start_time = us_load_relaxed64(&p->start_time);
            ret[count].pid_namespace = us_load_relaxed64(&p->pid_namespace);
            ret[count].pid = (int32_t)us_load_relaxed32((const uint32_t *)&p->pid);
            ret[count].self = slot + 1 == us_me(a);
            ret[count].alive = us_process_alive(a, slot);
        }
        count++;
    }
    return count;
}

uint16_t us_owner(us_arena *a)
{
    return us_me(a);
}
