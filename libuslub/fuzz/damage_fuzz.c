/* SPDX-License-Identifier: MIT */
/*
 * damage_fuzz.c - damaged arenas: no crash, no access outside the arena, no endless
 * loop.
 *
 *   damage_fuzz FIRST COUNT    images FIRST .. FIRST + COUNT - 1
 *   damage_fuzz FIRST COUNT peer    the same, all of them with a peer in another thread
 *   damage_fuzz N              image N alone, in this process, for a debugger
 *
 * An image is a copy of a good arena, damaged by the rules of damage.h and used by
 * those of calls.h; its number decides everything but what the clock and a peer in
 * another thread do. A child works through many images; its parent names the image and
 * the call in which a child died or got stuck, and goes on with the next. The arena is
 * mapped in the middle of addresses that nobody may touch, as far as an offset can
 * reach.
 */
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "fuzz/calls.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define BATCH    1000u
#define STUCK_NS (SANITIZED ? 30000000000ULL : 10000000000ULL)
#define REACH    (1ULL << US_OFFSET_BITS)
#define ROOM     (2ULL << 30) /* of private memory; more is a leak */

static struct image images[IMAGES];
static struct progress *progress;
static bool always_a_peer;

/* ---- what the linker sends here: see meson.build ---- */

static char *nowhere; /* REACH bytes, then room for an arena, then REACH bytes */
static uint64_t reach;

void *__real_mmap64(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t bytes);
int __wrap_munmap(void *at, size_t bytes);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_nanosleep(const struct timespec *wait, struct timespec *left);
int __real_sched_yield(void);
int __wrap_sched_yield(void);
int __wrap_usleep(unsigned microseconds);
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
ssize_t __real_getrandom(void *data, size_t bytes, unsigned flags);
ssize_t __wrap_getrandom(void *data, size_t bytes, unsigned flags);

/* An arena goes to the middle of nowhere. */
void *__wrap_mmap64(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    if (nowhere != NULL && at == NULL && flags == MAP_SHARED && fd >= 0) {
        if (bytes > reach) {
            errno = ENOMEM;
            return MAP_FAILED;
        }
        at = nowhere + reach;
        flags |= MAP_FIXED;
    }
    return __real_mmap64(at, bytes, prot, flags, fd, offset);
}

int __wrap_munmap(void *at, size_t bytes)
{
    if (nowhere != NULL && at == nowhere + reach) {
        return __real_mmap64(at, bytes, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                             -1, 0) == at
                   ? 0
                   : -1;
    }
    return __real_munmap(at, bytes);
}

/* The same secrets in every run. */
ssize_t __wrap_getrandom(void *data, size_t bytes, unsigned flags)
{
    struct chance c = {bytes};

    (void)flags;
    for (size_t i = 0; i < bytes; i++) {
        ((unsigned char *)data)[i] = (unsigned char)any(&c);
    }
    return (ssize_t)bytes;
}

/*
 * Waiting takes no time, but the clock goes on: a lock that is never let go is waited
 * for as long as its rules say, and nobody waits for the test.
 */
static uint64_t skipped_ns;

int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    int failed = __real_clock_gettime(clock, ret);
    uint64_t ns = (uint64_t)ret->tv_nsec + us_load_relaxed64(&skipped_ns);

    ret->tv_sec += (time_t)(ns / 1000000000u);
    ret->tv_nsec = (long)(ns % 1000000000u);
    return failed;
}

static int skip(const struct timespec *wait)
{
    us_fetch_add_relaxed64(&skipped_ns, (uint64_t)wait->tv_sec * 1000000000u +
                                            (uint64_t)wait->tv_nsec);
    return 0;
}

int __wrap_nanosleep(const struct timespec *wait, struct timespec *left)
{
    (void)left;
    return skip(wait);
}

int __wrap_sched_yield(void)
{
    us_relax();
    return 0;
}

int __wrap_usleep(unsigned microseconds)
{
    struct timespec wait = {.tv_sec = microseconds / 1000000,
                            .tv_nsec = microseconds % 1000000 * 1000L};

    return skip(&wait);
}

long __wrap_syscall(long number, ...)
{
    long a[6];
    va_list args;

    va_start(args, number);
    for (int i = 0; i < 6; i++) {
        a[i] = va_arg(args, long);
    }
    va_end(args);
    if (number == SYS_futex && (a[1] & 127) == FUTEX_WAIT && a[3] != 0) {
        errno = ETIMEDOUT;
        (void)skip((const struct timespec *)a[3]);
        return -1;
    }
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void reserve_nowhere(void)
{
    void *at = MAP_FAILED;

    for (reach = REACH; at == MAP_FAILED && reach > 1 << 30; reach /= 2) {
        at = __real_mmap64(NULL, 3 * reach, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at != MAP_FAILED) {
            nowhere = at;
            return;
        }
    }
}

/* ---- copies of the good images ---- */

struct copy {
    char *file; /* mapped for the peer and for ourselves */
    int fd;     /* an arena without a name: never sealed, so that it can be cut */
    int life;   /* another description: holds the locks of who is to be alive */
};
static struct copy copies[IMAGES];

static void copy_open(struct copy *copy, const struct image *image)
{
    char path[64];

    copy->fd = memfd_create("damaged", MFD_CLOEXEC);
    assert(copy->fd >= 0 && ftruncate(copy->fd, (off_t)image->size) == 0);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", copy->fd);
    copy->life = open(path, O_RDWR | O_CLOEXEC);
    copy->file = __real_mmap64(NULL, image->size, PROT_READ | PROT_WRITE, MAP_SHARED,
                               copy->fd, 0);
    assert(copy->life >= 0 && copy->file != MAP_FAILED);
}

/* The copy is the image again. */
static void copy_restore(struct copy *copy, const struct image *image)
{
    off_t at = 0;

    while ((at = lseek(copy->fd, at, SEEK_DATA)) >= 0) {
        off_t hole = lseek(copy->fd, at, SEEK_HOLE), start = at;

        for (; at <= hole; at += US_PAGE_SIZE) {
            if (at < hole && !image->holds[at >> US_PAGE_SHIFT]) {
                continue;
            }
            if (at > start) {
                (void)fallocate(copy->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                start, at - start);
            }
            start = at + US_PAGE_SIZE;
        }
        at = hole;
    }
    for (uint32_t i = 0; i < image->page_count; i++) {
        uint64_t offset = us_page_offset(image->pages[i]);

        memcpy(copy->file + offset, image->bytes + offset, US_PAGE_SIZE);
    }
}

static void copy_set_alive(struct copy *copy, uint32_t alive)
{
    for (uint32_t slot = 0; slot < PARTICIPANTS; slot++) {
        struct flock lock = {.l_type = alive >> slot & 1 ? F_WRLCK : F_UNLCK,
                             .l_whence = SEEK_SET,
                             .l_start = (off_t)(US_LOCK_BASE + slot),
                             .l_len = 1};

        (void)fcntl(copy->life, F_OFD_SETLK, &lock);
    }
}

/* ---- a peer in another thread ---- */

static struct damage scribbler;
static uint32_t scribbler_pause = 1;
static uint32_t scribbling; /* 1: go on, 0: stop, 2: it has stopped */
static pthread_t scribbler_thread;

static void *scribble(void *arg)
{
    (void)arg;
    for (;;) {
        uint32_t state = us_load_acquire32(&scribbling);

        if (state == 1) {
            damage_once(&scribbler);
            set4(&scribbler, offsetof(struct us_header, poisoned), 0);
            for (uint32_t i = below(&scribbler.chance, scribbler_pause); i != 0; i--) {
                us_relax();
            }
        } else {
            (void)us_cas_acq_rel32(&scribbling, &state, 2);
            (void)syscall(SYS_futex, &scribbling, FUTEX_WAIT, 2, NULL, NULL, 0);
        }
    }
    return NULL;
}

static void scribbling_begins(const struct image *image, struct copy *copy,
                              uint64_t number)
{
    if (scribbler_thread == 0 &&
        pthread_create(&scribbler_thread, NULL, scribble, NULL) != 0) {
        return;
    }
    while (us_load_acquire32(&scribbling) == 0) { /* its first breath */
        (void)__real_sched_yield();
    }
    scribbler = (struct damage){image, copy->file, {~number}};
    scribbler_pause = 64u << below(&scribbler.chance, 10);
    us_store_release32(&scribbling, 1);
    (void)syscall(SYS_futex, &scribbling, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void scribbling_ends(void)
{
    if (us_load_acquire32(&scribbling) != 1) {
        return;
    }
    us_store_release32(&scribbling, 0);
    (void)syscall(SYS_futex, &scribbling, FUTEX_WAKE, 1, NULL, NULL, 0);
    while (us_load_acquire32(&scribbling) != 2) {
        (void)__real_sched_yield();
    }
}

/* ---- one image ---- */

static void resize(struct copy *copy, uint64_t size)
{
    (void)ftruncate(copy->fd, (off_t)size);
}

/* A file that is too short or too long is no arena. */
static bool cut(struct copy *copy, const struct image *image, struct chance *c)
{
    uint64_t sizes[] = {0, below(c, US_PAGE_SIZE), below(c, image->size),
                        image->size - 1 - below(c, US_PAGE_SIZE),
                        image->size + 1 + below(c, 1 << 20)};
    us_arena *a = NULL;
    us_err err;

    resize(copy, sizes[below(c, sizeof(sizes) / sizeof(sizes[0]))]);
    note(progress, "us_arena_attach_fd() of a file cut short");
    err = us_arena_attach_fd(copy->fd, &a);
    if (err == US_OK) {
        us_arena_detach(a);
    }
    resize(copy, image->size);
    return err != US_OK;
}

enum peer { NOBODY, BETWEEN_CALLS, ANY_TIME };

static bool attach_and_use(struct copy *copy, const struct image *image,
                           uint64_t number, struct damage *d, enum peer peer)
{
    struct user user = {.at = progress,
                        .chance = {any(&d->chance)},
                        .peer = peer == BETWEEN_CALLS ? d : NULL,
                        .image = image};
    bool early = one_in(&d->chance, 4);
    us_err err;

    if (peer == ANY_TIME && early) {
        scribbling_begins(image, copy, number);
    }
    note(progress, "us_arena_attach_fd()");
    err = us_arena_attach_fd(copy->fd, &user.a);
    progress->codes[(unsigned)err % 32]++;
    if (err == US_OK) {
        if (peer == ANY_TIME && !early) {
            scribbling_begins(image, copy, number);
        }
        progress->attached++;
        use_arena(&user);
    }
    if (peer == ANY_TIME) {
        scribbling_ends();
    }
    return !user.wrong;
}

/* False: an answer was wrong; it has been said how. */
static bool try_image(uint64_t number)
{
    struct chance c = {number};
    uint32_t kind = below(&c, IMAGES), way = below(&c, 64);
    const struct image *image = &images[kind];
    struct copy *copy = &copies[kind];
    struct damage d = {image, copy->file, {any(&c)}}; /* good_copy() has opened it */
    uint32_t alive = below(&c, 1 << PARTICIPANTS);
    uint64_t size = image->size;
    bool right;

    us_store_release64(&progress->image, number);
    note(progress, "restoring the copy");
    copy_restore(copy, image);
    if (!one_in(&c, 4)) { /* we take the place of who made the arena */
        ((struct us_process *)(void *)(copy->file + image->at.processes))->state =
            US_PROCESS_FREE;
        alive &= ~1u;
    }
    copy_set_alive(copy, alive);
    way = always_a_peer ? 63 : way;
    if (way == 0) {
        return cut(copy, image, &c);
    }
    if (way < 4) {
        forge_header(&d, &size);
        resize(copy, size);
        right = attach_and_use(copy, image, number, &d, NOBODY);
        if (size < image->size) {
            resize(copy, 0); /* nothing of it stays */
        }
        resize(copy, image->size);
        return right;
    }
    if (way < 56) {
        damage_image(&d);
    }
    return attach_and_use(copy, image, number, &d,
                          way < 44   ? NOBODY
                          : way < 56 ? BETWEEN_CALLS
                          : way < 60 ? BETWEEN_CALLS
                                     : ANY_TIME);
}

/* What is found wrong later was not wrong from the start. */
static bool good_copy(uint32_t kind)
{
    us_arena *a = NULL;
    us_err err;
    bool right;

    copy_open(&copies[kind], &images[kind]);
    copy_restore(&copies[kind], &images[kind]);
    copy_set_alive(&copies[kind], 7);
    err = us_arena_attach_fd(copies[kind].fd, &a);
    right = err == US_OK && us_validate(a, NULL, complain, NULL) == 0;
    if (err == US_OK) {
        us_arena_detach(a);
    }
    copy_set_alive(&copies[kind], 0);
    return right;
}

/* ---- children ---- */

static void say_where(int number)
{
    void *frames[40];
    int count = backtrace(frames, 40);

    (void)signal(number, SIG_DFL);
    backtrace_symbols_fd(frames, count, 2);
    (void)raise(number);
}

static void catch_signals(void)
{
    static const int deaths[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    static char stack[65536];
    stack_t other = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction action = {.sa_handler = say_where, .sa_flags = SA_ONSTACK};
    void *frames[2];

    (void)backtrace(frames, 2); /* loads what it needs while there is a heap */
    (void)sigaltstack(&other, NULL);
    for (size_t i = 0; i < sizeof(deaths) / sizeof(deaths[0]); i++) {
        (void)sigaction(deaths[i], &action, NULL);
    }
}

static void limit_memory(void)
{
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    struct rlimit limit;

    if (file != NULL && fscanf(file, "%llu", &pages) == 1) {
        limit.rlim_cur = limit.rlim_max = pages * US_PAGE_SIZE + ROOM;
        (void)setrlimit(RLIMIT_AS, &limit);
    }
    if (file != NULL) {
        (void)fclose(file);
    }
}

_Noreturn static void work(uint64_t first, uint64_t end)
{
    bool right = true;

    if (!SANITIZED) {
        catch_signals();
        limit_memory();
    }
    for (uint64_t number = first; number < end; number++) {
        if (!try_image(number)) {
            (void)dprintf(2, "damage: image %llu: a wrong answer\n",
                          (unsigned long long)number);
            right = false;
        }
    }
    note(progress, "done");
    _exit(right ? 0 : 3);
}

/* Waits for the child; true: it is dead because it got stuck. */
static bool watch(pid_t child, int *status)
{
    uint64_t calls = 0, since = now_ns();

    while (waitpid(child, status, WNOHANG) == 0) {
        uint64_t seen = us_load_acquire64(&progress->calls);

        if (seen != calls) {
            calls = seen;
            since = now_ns();
        } else if (now_ns() - since > STUCK_NS) {
            (void)kill(child, SIGABRT); /* says where it is */
            (void)poll(NULL, 0, 1000);
            (void)kill(child, SIGKILL);
            (void)waitpid(child, status, 0);
            return true;
        }
        (void)poll(NULL, 0, 10);
    }
    return false;
}

/* Images first .. end - 1 in children; how many went wrong. */
static uint32_t run(uint64_t first, uint64_t end)
{
    uint32_t failures = 0;

    while (first < end && failures < 50) {
        uint64_t stop = first + BATCH < end ? first + BATCH : end;
        int status = 0;
        pid_t child = fork();
        bool stuck;

        if (child == 0) {
            work(first, stop);
        }
        stuck = watch(child, &status);
        if (!stuck && WIFEXITED(status) &&
            (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3)) {
            failures += WEXITSTATUS(status) != 0;
            first = stop;
            continue;
        }
        (void)printf("image %llu: %s in %s\n", (unsigned long long)progress->image,
                     stuck                 ? "stuck"
                     : WIFSIGNALED(status) ? strsignal(WTERMSIG(status))
                                           : "an exit",
                     progress->call);
        (void)fflush(stdout);
        failures++;
        first = progress->image + 1;
    }
    return failures;
}

static void report(uint64_t count, uint32_t failures, uint64_t ns)
{
    (void)printf(
        "%llu images in %.1f s, %llu attached, %llu calls; slowest: %.1f ms, "
        "image %llu, %s\n",
        (unsigned long long)count, (double)ns / 1e9,
        (unsigned long long)progress->attached, (unsigned long long)progress->calls,
        (double)progress->slowest_ns / 1e6, (unsigned long long)progress->slowest_image,
        progress->slowest_call == NULL ? "" : progress->slowest_call);
    for (unsigned code = 0; code < 32; code++) {
        if (progress->codes[code] != 0) {
            (void)printf("%s%s %llu", code == 0 ? "" : ", ",
                         us_error_name((us_err)code),
                         (unsigned long long)progress->codes[code]);
        }
    }
    (void)printf("\n%u went wrong\n", failures);
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : argc > 1 ? 1 : 3000;
    uint64_t began = now_ns();
    uint32_t failures;

    always_a_peer = argc > 3;
    progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert(progress != MAP_FAILED);
    for (uint32_t kind = 0; kind < IMAGES; kind++) {
        image_make(&images[kind], kind);
        if (!good_copy(kind)) {
            return 1;
        }
    }
    reserve_nowhere();
    if (argc == 2) {
        failures = !try_image(first);
    } else {
        failures = run(first, first + count);
    }
    report(count, failures, now_ns() - began);
    return failures != 0;
}
