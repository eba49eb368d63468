// SPDX-License-Identifier: MIT
//
// checker.cc - plays the atomic accesses of the engine on relacy's memory model.
//
// Each named word is one relacy atomic of 128 bits. The pair of a double-word swap is
// one atomic too: a load of a half is a load of the whole, of which the half is kept,
// so two loads of halves may see two different swaps (but never the older one second).
//
// What relacy does not show: a store that overtakes an earlier load of its thread (load
// buffering), and loads that see more than two versions back.
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <relacy/relacy.hpp>

#undef new
#undef delete
#undef malloc
#undef free
#undef calloc
#undef realloc
#undef assert
#undef errno

#include <errno.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <sys/syscall.h>

#include "order.h"

struct word {
    uint64_t lo = 0, hi = 0;
};

static bool operator==(const word &a, const word &b)
{
    return a.lo == b.lo && a.hi == b.hi;
}
static word operator+(const word &a, const word &b)
{
    return word{(a.lo + b.lo) & b.hi, 0}; // hi: which bits the word has
}
static word operator|(const word &a, const word &b)
{
    return word{a.lo | b.lo, 0};
}
static word operator&(const word &a, const word &b)
{
    return word{a.lo & b.lo, 0};
}
static std::ostream &operator<<(std::ostream &s, const word &w)
{
    if (w.hi != 0) {
        s << std::hex << w.hi << ":";
    }
    return s << std::hex << w.lo << std::dec;
}

// ---- the words of one schedule ----

namespace
{

constexpr unsigned WORDS = 96, PAYLOADS = 16;

struct shadow {
    char *at;
    unsigned bytes;
    rl::atomic<word> *cell;
};
shadow words[WORDS];
unsigned word_count;
alignas(64) char cells[WORDS][sizeof(rl::atomic<word>)];
rl::var<unsigned> *payloads[PAYLOADS];
alignas(64) char payload_room[PAYLOADS][sizeof(rl::var<unsigned>)];
rl::atomic<unsigned> *ended;
alignas(64) char ended_room[ORDER_THREADS][sizeof(rl::atomic<unsigned>)];
bool running;

struct life {
    bool mortal;
    unsigned left;
    jmp_buf out;
} lives[ORDER_THREADS];

rl::memory_order order_of(int order)
{
    switch (order) {
    case __ATOMIC_RELAXED:
        return rl::mo_relaxed;
    case __ATOMIC_CONSUME:
        return rl::mo_consume;
    case __ATOMIC_ACQUIRE:
        return rl::mo_acquire;
    case __ATOMIC_RELEASE:
        return rl::mo_release;
    case __ATOMIC_ACQ_REL:
        return rl::mo_acq_rel;
    }
    return rl::mo_seq_cst;
}

shadow *find(const void *p)
{
    const char *at = static_cast<const char *>(p);

    for (unsigned i = 0; running && i < word_count; i++) {
        if (at >= words[i].at && at < words[i].at + words[i].bytes) {
            return &words[i];
        }
    }
    return nullptr;
}

unsigned half(const shadow *s, const void *p)
{
    return static_cast<const char *>(p) == s->at ? 0 : 8;
}

word word_from(const void *p, unsigned bytes)
{
    word w;
    memcpy(&w, p, bytes);
    return w;
}

// Each access of a mortal thread may be the one that it does not live to see.
void step()
{
    life &l = lives[rl::ctx().threadx_->index_];

    if (l.mortal && l.left-- == 0) {
        l.mortal = false;
        longjmp(l.out, 1);
    }
}

// Left alone, each step is somebody else's: what needs a long pause of one thread would
// never happen. So a thread stays on for some steps, in each schedule for another
// number.
unsigned pace;

struct staying {
    bool on = pace > 1 && rl::rand(pace) != 0;

    staying()
    {
        if (on) {
            rl::ctx().disable_preemption();
        }
    }
    ~staying()
    {
        if (on) {
            rl::ctx().enable_preemption();
        }
    }
};

void must(bool claim, const char *text)
{
    if (!claim) {
        fprintf(stderr, "order: %s\n", text);
        abort();
    }
}

} // namespace

extern "C" {

void order_word(const void *p, unsigned bytes)
{
    must(word_count < WORDS, "too many words");
    shadow &s = words[word_count];
    s.at = static_cast<char *>(const_cast<void *>(p));
    s.bytes = bytes;
    s.cell = new (cells[word_count]) rl::atomic<word>;
    s.cell->store(word_from(p, bytes), rl::mo_relaxed, $);
    word_count++;
}

void order_payload(unsigned index)
{
    must(index < PAYLOADS, "too many payloads");
    payloads[index] = new (payload_room[index]) rl::var<unsigned>;
    (*payloads[index])($) = 0;
}

void order_touch(unsigned index)
{
    (*payloads[index])($) = 1;
}

void order_look(unsigned index)
{
    unsigned seen = (*payloads[index])($);

    (void)seen;
}

void order_mortal(unsigned steps)
{
    life &l = lives[rl::ctx().threadx_->index_];

    l.left = rl::rand(steps + 1);
    l.mortal = true;
}

bool order_die(void (*body)(void))
{
    life &l = lives[rl::ctx().threadx_->index_];

    if (setjmp(l.out) == 0) {
        body();
        l.mortal = false;
        return false;
    }
    return true;
}

void order_await(int index)
{
    while (ended[index].load(rl::mo_acquire, $) == 0) {
        rl::yield(1, $);
    }
}

unsigned order_random(unsigned limit)
{
    return rl::rand(limit);
}

int order_thread(void)
{
    return static_cast<int>(rl::ctx().threadx_->index_);
}

void order_claim(bool claim, const char *text, const char *file, int line)
{
    if (!claim) {
        rl::ctx().fail_test(text, rl::test_result_user_assert_failed,
                            rl::debug_info(text, file, static_cast<unsigned>(line)));
    }
}

// The model's linker puts this where a function of the engine is that the model lacks.
void order_missing(const char *name)
{
    fprintf(stderr, "order: the model reached %s(), which it does not have\n", name);
    abort();
}

void order_load(void *ret, const void *p, unsigned bytes, int order)
{
    shadow *s = find(p);

    if (s == nullptr) {
        memcpy(ret, p, bytes);
        return;
    }
    step();
    staying here;
    word w = s->cell->load(order_of(order), $);
    memcpy(ret, reinterpret_cast<char *>(&w) + half(s, p), bytes);
}

void order_store(void *p, const void *value, unsigned bytes, int order)
{
    shadow *s = find(p);

    if (s == nullptr) {
        memcpy(p, value, bytes);
        return;
    }
    must(s->bytes == bytes, "a store of half a word");
    step();
    staying here;
    s->cell->store(word_from(value, bytes), order_of(order), $);
}

// relacy's failing swap sees the newest value. A real one is a load, which need not: so
// a load comes first, and what it sees may be the reason to fail.
bool order_cas(void *p, void *expected, const void *value, unsigned bytes, int success,
               int failure)
{
    shadow *s = find(p);

    if (s == nullptr) {
        bool same = memcmp(p, expected, bytes) == 0;

        memcpy(same ? p : expected, same ? value : p, bytes);
        return same;
    }
    must(s->bytes == bytes, "a swap of half a word");
    step();
    staying here;
    word wanted = word_from(expected, bytes);
    word found = s->cell->load(order_of(failure), $);
    bool done = found == wanted && s->cell->compare_exchange_strong(
                                       found, word_from(value, bytes),
                                       order_of(success), $, order_of(failure), $);
    if (!done) {
        memcpy(expected, &found, bytes);
    }
    return done;
}

void order_rmw(void *ret, void *p, const void *value, unsigned bytes,
               enum order_rmw what, int order)
{
    shadow *s = find(p);
    word op = word_from(value, bytes), old;

    op.hi = what == ORDER_ADD ? UINT64_MAX >> (64 - 8 * bytes) : 0;
    if (s == nullptr) {
        if (order == __ATOMIC_SEQ_CST) { // what us_fence() is under ThreadSanitizer
            order_fence(order);
        }
        old = word_from(p, bytes);
        word fresh = what == ORDER_ADD   ? old + op
                     : what == ORDER_OR  ? old | op
                     : what == ORDER_AND ? old & op
                                         : op;
        memcpy(p, &fresh, bytes);
    } else {
        must(s->bytes == bytes, "a swap of half a word");
        step();
        staying here;
        rl::memory_order mo = order_of(order);
        old = what == ORDER_ADD ? s->cell->fetch_add(op, mo, $)
              : what == ORDER_OR
                  ? s->cell->rmw(rl::rmw_type_t<rl::rmw_type_or>(), op, mo, $)
              : what == ORDER_AND
                  ? s->cell->rmw(rl::rmw_type_t<rl::rmw_type_and>(), op, mo, $)
                  : s->cell->exchange(op, mo, $);
    }
    memcpy(ret, &old, bytes);
}

void order_fence(int order)
{
    if (running) {
        step();
        staying here;
        rl::atomic_thread_fence(order_of(order), $);
    }
}

// The pair of a membarrier() in another thread: together they are two full fences.
void order_signal_fence(void)
{
    if (running && order_model.fences) {
        rl::atomic_thread_fence(rl::mo_seq_cst, $);
    }
}

// The kernel's side of a futex: looks at the newest value and sleeps, in one step.
// Unless the model is timed no sleep ends by itself, so a wake-up that is lost is a
// deadlock.
long syscall(long number, ...)
{
    va_list args;

    va_start(args, number);
    void *p = va_arg(args, void *);
    int what = va_arg(args, int);
    uint32_t value = va_arg(args, uint32_t);
    va_end(args);
    shadow *s = find(p);
    must(number == SYS_futex && s != nullptr, "a system call that is no futex");
    rl::ctx().sched();
    rl::atomic_thread_fence(rl::mo_seq_cst, $);
    if ((what & FUTEX_CMD_MASK) == FUTEX_WAKE) {
        int count = value > ORDER_THREADS ? ORDER_THREADS : static_cast<int>(value);
        return s->cell->wake(rl::ctx(), static_cast<rl::thread_id_t>(count), $);
    }
    if (static_cast<uint32_t>(s->cell->debug_value().lo) != value) {
        *__errno_location() = EAGAIN;
        return -1;
    }
    if (s->cell->wait(rl::ctx(), order_model.timed, false, $) ==
        rl::unpark_reason_timeout) {
        *__errno_location() = ETIMEDOUT;
        return -1;
    }
    return 0;
}

} // extern "C"

// ---- one schedule ----

template <rl::thread_id_t COUNT>
struct schedule : rl::test_suite<schedule<COUNT>, COUNT> {
    void before()
    {
        word_count = 0;
        running = false;
        pace = 1u << 2 * rl::rand(4);
        memset(lives, 0, sizeof(lives));
        memset(payloads, 0, sizeof(payloads));
        for (int i = 0; i < ORDER_THREADS; i++) {
            auto *one = new (ended_room[i]) rl::atomic<unsigned>;
            one->store(0, rl::mo_relaxed, $);
        }
        ended = reinterpret_cast<rl::atomic<unsigned> *>(ended_room[0]);
        order_model.begin();
        running = true;
    }
    void thread(unsigned index)
    {
        order_model.thread[index]();
        ended[index].store(1, rl::mo_release, $);
    }
    void after()
    {
        running = false;
        for (unsigned i = 0; i < word_count; i++) {
            word w = words[i].cell->debug_value();
            memcpy(words[i].at, &w, words[i].bytes);
        }
        order_model.end();
        for (unsigned i = 0; i < word_count; i++) {
            words[i].cell->~atomic();
        }
        for (auto *one : payloads) {
            if (one != nullptr) {
                one->~var();
            }
        }
        for (int i = 0; i < ORDER_THREADS; i++) {
            ended[i].~atomic();
        }
    }
};

// checker [SCHEDULES]: 0 if all of them are right; 1: one is wrong, and printed.
int main(int argc, char **argv)
{
    rl::test_params params;
    std::ostream nothing(nullptr);
    bool right;

    params.iteration_count =
        argc > 1 ? strtoul(argv[1], nullptr, 10) : order_model.iterations;
    params.execution_depth_limit = 20000;
    params.progress_stream = &nothing;
    right = order_model.threads == 2 ? rl::simulate<schedule<2>>(params)
                                     : rl::simulate<schedule<3>>(params);
    return right ? 0 : 1;
}
