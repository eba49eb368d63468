/* SPDX-License-Identifier: MIT */
/*
 * handoff.c - 64-byte objects allocated here and freed there.
 *
 * uslub: two processes share an arena; the offset travels, the receiver adopts the
 * object and frees it. malloc: two threads, the nearest that malloc can do. kind=locked
 * stands for no allocator at all: the 64 bytes are copied through the ring between
 * processes.
 *
 * mode=turns: the sides take turns with 1000 objects, each clocks its own part
 * ("take_ns", "give_ns" per object), waiting is not counted. mode=stream: both run at
 * once through a ring of 1024; "ns" is wall time per object.
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define RING        1024
#define BURST       32
#define TURN        1000
#define BATCHES_MAX 4096

struct message {
    uint64_t word;
    char payload[56]; /* of the copying variant */
};

struct channel {
    _Alignas(64) _Atomic uint64_t head; /* written by the producer */
    _Alignas(64) _Atomic uint64_t tail; /* written by the consumer */
    _Alignas(64) _Atomic uint64_t sum;
    uint64_t give_ns[BATCHES_MAX];
    struct message slots[RING];
};

struct side {
    enum kind kind;
    struct pool *pool;
    struct channel *channel;
    uint64_t batches;
    uint16_t from;
    bool turns;
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_a_little(unsigned *spins)
{
    if (++*spins % 64 == 0) {
        sched_yield();
    } else {
        relax();
    }
}

static uint64_t wait_past(_Atomic uint64_t *word, uint64_t value)
{
    unsigned spins = 0;
    uint64_t seen;

    while ((seen = atomic_load_explicit(word, memory_order_acquire)) <= value) {
        wait_a_little(&spins);
    }
    return seen;
}

static void stay_on(unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
    sched_setaffinity(0, sizeof(set), &set);
}

INLINE void put(enum kind kind, struct side *s, struct message *m, uint64_t i)
{
    if (kind == LOCKED) {
        char *copy = (char *)m;

        memset(copy, (int)i, sizeof(*m));
        m->word = i;
        return;
    }
    void *object = take(kind, s->pool);
    touch(object, i);
    if (kind == USLUB && us_move(arena, object) != US_OK) {
        die("%s", us_last_error());
    }
    m->word = kind == USLUB ? us_offset(arena, object) : (uint64_t)(uintptr_t)object;
}

INLINE uint64_t get(enum kind kind, struct side *s, struct message *m)
{
    uint64_t value;
    void *object;

    if (kind == LOCKED) {
        return m->word;
    }
    if (kind == USLUB) {
        if (us_adopt(arena, m->word, s->from) != US_OK) {
            die("%s", us_last_error());
        }
        object = us_pointer(arena, m->word);
    } else {
        object = (void *)(uintptr_t)m->word; // NOLINT(performance-no-int-to-ptr)
    }
    value = *(volatile uint64_t *)object;
    give(kind, s->pool, object);
    return value;
}

/* Objects are produced and consumed in bursts, or in whole turns. */
INLINE void produce(enum kind kind, struct side *s, struct samples *ret)
{
    struct channel *c = s->channel;
    uint64_t burst = s->turns ? TURN : BURST, room = s->turns ? TURN : RING, i = 0;

    for (uint64_t batch = 0; batch < s->batches; batch++) {
        uint64_t start = now_ns();

        for (uint64_t end = i + TURN - TURN % burst; i < end; i += burst) {
            if (i + burst > room) {
                wait_past(&c->tail, i + burst - room - 1);
            }
            if (s->turns) {
                start = now_ns();
            }
            for (uint64_t j = i; j < i + burst; j++) {
                put(kind, s, &c->slots[j % RING], j);
            }
            if (s->turns) {
                samples_add(ret, now_ns() - start, burst);
            }
            atomic_store_explicit(&c->head, i + burst, memory_order_release);
        }
        if (!s->turns) {
            samples_add(ret, now_ns() - start, TURN - TURN % burst);
        }
    }
}

INLINE void consume(enum kind kind, struct side *s)
{
    struct channel *c = s->channel;
    uint64_t burst = s->turns ? TURN : BURST, per_batch = TURN - TURN % burst, sum = 0;

    for (uint64_t i = 0; i < s->batches * per_batch; i += burst) {
        wait_past(&c->head, i + burst - 1);
        uint64_t start = now_ns();

        for (uint64_t j = i; j < i + burst; j++) {
            sum += get(kind, s, &c->slots[j % RING]);
        }
        if (s->turns) {
            c->give_ns[i / TURN] = now_ns() - start;
        }
        atomic_store_explicit(&c->tail, i + burst, memory_order_release);
    }
    atomic_store(&c->sum, sum + 1);
}

static void *consumer(void *arg)
{
    struct side *s = arg;

    stay_on(1);
    WITH_KIND(s->kind, consume, s);
    return NULL;
}

static void run_both(struct side *s, struct samples *ret)
{
    pthread_t thread;
    pid_t child = -1;

    if (s->kind == MALLOC) {
        pthread_create(&thread, NULL, consumer, s);
    } else if ((child = fork()) == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        consumer(s);
        _exit(0);
    }
    stay_on(0);
    WITH_KIND(s->kind, produce, s, ret);
    if (s->kind == MALLOC) {
        pthread_join(thread, NULL);
    } else {
        int status = 0;

        waitpid(child, &status, 0);
        if (status != 0) {
            die("the consumer failed");
        }
    }
}

void workload_handoff(enum kind kind)
{
    struct channel *channel = mmap(NULL, sizeof(*channel), PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct samples mine = {0}, theirs = {0};
    struct pool pool;
    struct side side = {.kind = kind, .pool = &pool, .channel = channel};
    uint64_t n;

    side.turns = option_is("mode", "turns");
    side.batches = option("batches", 200);
    if (side.batches > BATCHES_MAX) {
        die("batches: %d at most", BATCHES_MAX);
    }
    arena_open(kind, 64u << 20, UINT64_MAX);
    pool_open(kind, &pool, 64, 0);
    side.from = kind == USLUB ? us_owner(arena) : 0;
    run_both(&side, &mine);
    n = side.batches * (side.turns ? TURN : TURN - TURN % BURST);
    if (channel->sum != n * (n - 1) / 2 + 1) {
        die("objects were lost on the way");
    }
    for (uint64_t i = 0; side.turns && i < side.batches; i++) {
        samples_add(&theirs, channel->give_ns[i], TURN);
    }
    samples_print(side.turns ? "take_ns" : "ns", &mine);
    if (side.turns) {
        samples_print("give_ns", &theirs);
    }
}
