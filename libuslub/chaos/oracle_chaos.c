/* SPDX-License-Identifier: MIT */
/*
 * oracle_chaos.c - the words, chairs and board of oracle.h; for C workers, and as a
 * shared library for Python.
 */
#include "chaos/oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/atomic.h"

#define ALONE      (1ULL << 63)
#define SERIAL     0x7fffu
#define CHAIRS     ((1ULL << CHAOS_CHAIRS) - 1)
#define GONE_TRIES 10000 /* of a millisecond: how long a death may take to show */

static const char *const names[] = {
#define CHAOS_X(item, name) name,
    CHAOS_OPERATIONS(CHAOS_X)
#undef CHAOS_X
};

uint64_t chaos_bytes(uint64_t arena_bytes)
{
    return sizeof(struct chaos_oracle) + arena_bytes;
}

struct chaos_oracle *chaos_map(int fd, uint64_t arena_bytes)
{
    void *map =
        mmap(NULL, chaos_bytes(arena_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    return map == MAP_FAILED ? NULL : map;
}

const char *chaos_name(uint32_t operation)
{
    return operation < CHAOS_COUNT ? names[operation] : "?";
}

uint32_t chaos_operations(void)
{
    return CHAOS_COUNT;
}

void chaos_complain(struct chaos_oracle *o, uint32_t chair, const char *text)
{
    uint32_t place = us_fetch_add_relaxed32(&o->texts_count, 1);

    if (place < CHAOS_TEXTS) {
        (void)snprintf(o->texts[place], sizeof(o->texts[place]), "chair %u, pid %d: %s",
                       chair, (int)getpid(), text);
    }
}

/* ---- who lives ---- */

/* State, number of threads and start time of a process; false: there is none. */
static bool process_stat(int pid, char *state, long *threads, uint64_t *start)
{
    char path[40], line[1024], *field;
    long values[20] = {0};
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    field = fgets(line, sizeof(line), file);
    (void)fclose(file);
    if (field == NULL || (field = strrchr(line, ')')) == NULL) {
        return false;
    }
    *state = field[2];
    field += 3;
    /* Fields 4 to 22 follow. */
    for (int i = 0; i < 19; i++) {
        values[i] = strtol(field, &field, 10);
    }
    *threads = values[16];
    *start = (uint64_t)values[18];
    return true;
}

/* A leader that has left the others behind is a zombie of several threads. */
bool chaos_gone(struct chaos_oracle *o, uint32_t chair)
{
    struct chaos_chair *c = o->chairs + chair;
    uint32_t state = us_load_acquire32(&c->state);
    char letter = 'X';
    long threads = 0;
    uint64_t start = 0;

    if (state == CHAOS_NOBODY || state == CHAOS_DEAD) {
        return true;
    }
    if (state == CHAOS_SITTING_DOWN) {
        return false;
    }
    return !process_stat(c->pid, &letter, &threads, &start) || start != c->start ||
           ((letter == 'Z' || letter == 'X') && threads <= 1);
}

int chaos_sit(struct chaos_oracle *o, uint32_t language, uint32_t heir)
{
    for (uint32_t i = 0; i < CHAOS_CHAIRS; i++) {
        struct chaos_chair *c = o->chairs + i;
        uint32_t state = CHAOS_NOBODY;
        char letter;
        long threads;

        if (!us_cas_acq_rel32(&c->state, &state, CHAOS_SITTING_DOWN)) {
            continue;
        }
        memset((char *)c + sizeof(c->state), 0, sizeof(*c) - sizeof(c->state));
        c->pid = (int)getpid();
        c->language = language;
        c->heir = heir;
        (void)process_stat(c->pid, &letter, &threads, &c->start);
        us_store_release32(&c->state, CHAOS_LIVE);
        return (int)i;
    }
    return -1;
}

void chaos_void(struct chaos_oracle *o, uint32_t chair)
{
    for (uint64_t i = 0; i < o->words_count; i++) {
        if (us_load_relaxed64(o->words + i) >> chair & 1) {
            (void)us_fetch_and_acq_rel64(o->words + i, ~(1ULL << chair));
        }
    }
    for (uint32_t i = 0; i < CHAOS_PLACES; i++) {
        uint32_t busy = CHAOS_BUSY;

        if (o->places[i].chair == chair) {
            (void)us_cas_acq_rel32(&o->places[i].state, &busy, CHAOS_EMPTY);
        }
    }
    us_store_release32(&o->chairs[chair].state, CHAOS_NOBODY);
}

void chaos_begin(struct chaos_oracle *o, uint32_t chair, uint32_t thread,
                 uint32_t operation)
{
    struct chaos_thread *t = o->chairs[chair].threads + thread;

    us_store_relaxed32(&t->tid, (uint32_t)syscall(SYS_gettid));
    us_store_relaxed32(&t->operation, operation);
    us_store_release64(&t->beat, us_load_relaxed64(&t->beat) + 1);
    (void)us_fetch_add_relaxed64(&o->chairs[chair].done[operation], 1);
}

/* ---- contents ---- */

static uint64_t pattern(uint64_t offset, uint32_t serial, uint64_t granule)
{
    uint64_t x = (offset + granule) * 0x9e3779b97f4a7c15u ^ (uint64_t)serial << 48;

    return (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
}

/* Every granule of the first page, then a sample; the last one always. */
static uint64_t next_granule(uint64_t i, uint64_t count)
{
    uint64_t next = i < 512 ? i + 1 : i + 509;

    return i + 1 < count && next >= count ? count - 1 : next;
}

static void fill(void *memory, uint64_t nbytes, uint64_t offset, uint32_t serial)
{
    uint64_t count = nbytes / 8, *granules = memory;

    for (uint64_t i = 0; i < count; i = next_granule(i, count)) {
        granules[i] = pattern(offset, serial, i);
    }
}

bool chaos_intact(const void *memory, uint64_t nbytes, uint64_t offset, uint32_t serial)
{
    const uint64_t *granules = memory;
    uint64_t count = nbytes / 8;

    for (uint64_t i = 0; i < count && i < 512; i++) {
        if (granules[i] != pattern(offset, serial, i)) {
            return false;
        }
    }
    return true;
}

static void check(struct chaos_oracle *o, uint32_t chair, uint64_t offset,
                  const void *memory, uint64_t nbytes, uint32_t serial)
{
    char text[200];

    if (!chaos_intact(memory, nbytes, offset, serial)) {
        (void)snprintf(text, sizeof(text),
                       "object at %#llx of %llu bytes, serial %u: its contents are not "
                       "what its holder wrote",
                       (unsigned long long)offset, (unsigned long long)nbytes, serial);
        chaos_complain(o, chair, text);
    }
}

/* ---- words ---- */

static uint64_t *word_at(struct chaos_oracle *o, uint32_t chair, uint64_t offset)
{
    static uint64_t nowhere;

    if (offset % 8 != 0 || offset / 8 >= o->words_count) {
        chaos_complain(o, chair, "an object outside of the arena");
        nowhere = 0;
        return &nowhere;
    }
    return o->words + offset / 8;
}

/*
 * Waits until the holders that `seen` names are gone or the word has changed: true. A
 * death shows in the arena a moment before it shows in /proc.
 */
static bool holders_gone(struct chaos_oracle *o, uint32_t me, const uint64_t *word,
                         uint64_t seen)
{
    const struct timespec nap = {.tv_nsec = 1000000};

    if (seen >> me & 1) {
        return false;
    }
    for (int tries = 0; tries < GONE_TRIES; tries++) {
        bool all = true;

        for (uint32_t i = 0; i < CHAOS_CHAIRS && all; i++) {
            all = !(seen >> i & 1) || chaos_gone(o, i);
        }
        if (all || us_load_acquire64(word) != seen) {
            return true;
        }
        (void)nanosleep(&nap, NULL);
    }
    return false;
}

static void complain_of(struct chaos_oracle *o, uint32_t chair, const char *what,
                        uint64_t offset, uint64_t word)
{
    char text[200];

    (void)snprintf(text, sizeof(text), "%s: offset %#llx, word %#llx", what,
                   (unsigned long long)offset, (unsigned long long)word);
    chaos_complain(o, chair, text);
}

/* What a dead process was alone with is wiped before anybody else gets it. */
static void check_wiped(struct chaos_oracle *o, uint32_t chair, uint64_t offset,
                        const void *memory, uint64_t nbytes, uint64_t old)
{
    const uint64_t *granules = memory;
    uint64_t last = nbytes / 8 - 1;
    uint32_t serial = old >> 48 & SERIAL;

    if ((old & ALONE) && (granules[0] == pattern(offset, serial, 0) ||
                          granules[last] == pattern(offset, serial, last))) {
        complain_of(o, chair, "not wiped: contents of a dead process", offset, old);
    }
}

uint32_t chaos_take(struct chaos_oracle *o, uint32_t chair, uint64_t offset,
                    void *memory, uint64_t nbytes)
{
    uint64_t *word = word_at(o, chair, offset), old;
    uint32_t serial = 1 + (uint32_t)(us_fetch_add_relaxed64(&o->serial, 1) % SERIAL);

    do {
        old = us_load_acquire64(word);
        if (old & CHAIRS) {
            if (!holders_gone(o, chair, word, old)) {
                complain_of(o, chair, "handed out twice", offset, old);
            } else if (us_load_acquire64(word) == old) {
                check_wiped(o, chair, offset, memory, nbytes, old);
            }
        }
    } while (
        !us_cas_acq_rel64(word, &old, ALONE | (uint64_t)serial << 48 | 1ULL << chair));
    fill(memory, nbytes, offset, serial);
    return serial;
}

void chaos_drop(struct chaos_oracle *o, uint32_t chair, uint64_t offset,
                const void *memory, uint64_t nbytes, uint32_t serial)
{
    uint64_t *word = word_at(o, chair, offset), old = us_load_acquire64(word);
    uint64_t new;

    check(o, chair, offset, memory, nbytes, serial);
    do {
        if (!(old >> chair & 1) || (old >> 48 & SERIAL) != serial) {
            complain_of(o, chair, "held by others than who frees it", offset, old);
            return;
        }
        new = old & ALONE ? 0 : old & ~(1ULL << chair);
    } while (!us_cas_acq_rel64(word, &old, new));
}

void chaos_share(struct chaos_oracle *o, uint32_t chair, uint64_t offset)
{
    uint64_t *word = word_at(o, chair, offset);
    uint64_t old = us_fetch_and_acq_rel64(word, ~ALONE);

    if (!(old >> chair & 1)) {
        complain_of(o, chair, "held by others than who shares it", offset, old);
    }
}

void chaos_offer(struct chaos_oracle *o, uint64_t offset, uint32_t serial)
{
    us_store_release64(word_at(o, 0, offset), (uint64_t)serial << 48);
}

uint32_t chaos_join(struct chaos_oracle *o, uint32_t chair, uint64_t offset,
                    const void *memory, uint64_t nbytes)
{
    uint64_t *word = word_at(o, chair, offset);
    uint64_t old = us_fetch_or_acq_rel64(word, 1ULL << chair);
    uint32_t serial = old >> 48 & SERIAL;

    if (old & ALONE) {
        complain_of(o, chair, "received, though another has it alone", offset, old);
    }
    check(o, chair, offset, memory, nbytes, serial);
    return serial;
}

/* ---- the board ---- */

bool chaos_put(struct chaos_oracle *o, uint32_t chair, const void *wire, uint32_t from)
{
    for (uint32_t i = 0; i < CHAOS_PLACES; i++) {
        struct chaos_place *p = o->places + i;
        uint32_t empty = CHAOS_EMPTY;

        if (us_load_relaxed32(&p->state) == CHAOS_EMPTY &&
            us_cas_acq_rel32(&p->state, &empty, CHAOS_BUSY)) {
            p->chair = chair;
            p->from = from;
            memcpy(p->wire, wire, CHAOS_WIRE);
            us_store_release32(&p->state, CHAOS_FULL);
            return true;
        }
    }
    return false;
}

bool chaos_get(struct chaos_oracle *o, uint32_t chair, void *wire, uint32_t *from,
               bool moved)
{
    for (uint32_t i = 0; i < CHAOS_PLACES; i++) {
        struct chaos_place *p = o->places + i;
        uint32_t full = CHAOS_FULL;

        if (us_load_acquire32(&p->state) != CHAOS_FULL || (p->from != 0) != moved ||
            !us_cas_acq_rel32(&p->state, &full, CHAOS_BUSY)) {
            continue;
        }
        p->chair = chair;
        if ((p->from != 0) != moved) { /* filled anew meanwhile */
            us_store_release32(&p->state, CHAOS_FULL);
            continue;
        }
        *from = p->from;
        memcpy(wire, p->wire, CHAOS_WIRE);
        us_store_release32(&p->state, CHAOS_EMPTY);
        return true;
    }
    return false;
}
