/* SPDX-License-Identifier: MIT */
/*
 * reap.c - what a participant leaves when it detaches or dies: its objects, its bits
 * among the holders of others, what it has sent and nobody received.
 *
 * One reaper at a time works on an arena: a lock on a byte of the file, which the
 * kernel drops with him. Every step is idempotent, so whoever comes after a reaper that
 * died begins again. A participant that died inside the allocator itself (its intent
 * names an operation on slabs) is left as it is: putting slabs together again is a
 * recovery of its own (docs/design/04-sharing.md).
 */
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "share/share.h"

#define LEASE_NS                                                                       \
    (10ULL * 1000 * 1000 * 1000) /* what the dead sent may still arrive                \
                                  */
#define SOMETIMES_NS (10ULL * 1000 * 1000)

static uint64_t boot_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- one reaper at a time ---- */

static bool byte_lock(const struct us_arena *a, short type)
{
    struct flock lock = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = (off_t)(US_LOCK_BASE + US_PROCESSES),
        .l_len = 1,
    };

    return fcntl(a->fd, F_OFD_SETLK, &lock) == 0;
}

static bool begin_reaping(struct us_arena *a)
{
    if (pthread_mutex_trylock(&a->reap_lock) != 0) {
        return false;
    }
    if (byte_lock(a, F_WRLCK)) {
        return true;
    }
    (void)pthread_mutex_unlock(&a->reap_lock);
    return false;
}

static void end_reaping(struct us_arena *a)
{
    (void)byte_lock(a, F_UNLCK);
    (void)pthread_mutex_unlock(&a->reap_lock);
}

/* ---- every object of an arena ---- */

typedef bool (*object_fn)(struct us_arena *a, struct us_spot *spot, void *arg);

static void each_of_slab(struct us_arena *a, uint32_t page, object_fn fn, void *arg)
{
    struct us_page *p = a->pages + page;
    struct us_spot spot = {.page = page};
    uint32_t objects = us_slab_read(us_slab_load(p)).objects;

    spot.cache = us_cache_handle(a, us_load_relaxed32(&p->cache));
    if (spot.cache == NULL || objects > spot.cache->objects ||
        us_object_offset(spot.cache, page, objects) > us_page_offset(a->end_page)) {
        return;
    }
    spot.plane = spot.cache->tag_shift - 3;
    for (uint32_t i = 0; i < objects; i++) {
        spot.offset = us_object_offset(spot.cache, page, i);
        spot.tag = us_tag(spot.cache, spot.offset);
        if (us_load_relaxed16(spot.tag) == 0) {
            continue;
        }
        spot.holders = us_holders_at(a, spot.plane, spot.offset);
        if (!fn(a, &spot, arg)) {
            return;
        }
    }
}

static void each_object(struct us_arena *a, object_fn fn, void *arg)
{
    for (uint32_t page = a->first_page; page < a->end_page;) {
        uint32_t order, end = a->end_page - page;
        enum us_block_state state = us_block_state(a, page, &order);
        struct us_spot spot = {.page = page, .plane = US_TAG_PLANES - 1};

        if (state == US_BLOCK_SLAB) {
            each_of_slab(a, page, fn, arg);
        } else if (state == US_BLOCK_LARGE) {
            spot.offset = us_page_offset(page);
            spot.tag = us_large_tag(a, page);
            spot.holders = us_holders_at(a, spot.plane, spot.offset);
            if (us_load_relaxed16(spot.tag) != 0) {
                (void)fn(a, &spot, arg);
            }
        }
        page += state == US_BLOCK_TAIL || order >= 32 || 1u << order > end
                    ? 1
                    : 1u << order;
    }
}

/* ---- fork: the child holds what we hold ---- */

static bool share_with(struct us_arena *a, struct us_spot *spot, void *arg)
{
    uint64_t bit = *(uint64_t *)arg;
    uint16_t tag = us_load_acquire16(spot->tag);

    if (tag == us_me(a) && us_hold_share(a, spot) == US_ENOMEM) {
        *(uint64_t *)arg = 0;
        return false;
    }
    if (us_load_acquire16(spot->tag) != US_TAG_SHARED) {
        return true;
    }
    for (;;) {
        struct us_pair old = us_spot_pair(a, spot);
        struct us_holders h = us_holders_read(old);

        if (!(h.processes & us_holder_bit(a))) {
            return true;
        }
        h.processes |= bit;
        if (us_cas_pair(spot->holders, old, us_holders_next(h))) {
            return true;
        }
    }
}

us_err us_share_all(struct us_arena *a, uint32_t slot)
{
    struct us_thread *t = us_thread_self(a);
    uint64_t bit = 1ULL << slot;

    if (t == NULL) {
        return us_last_code();
    }
    (void)pthread_mutex_lock(&a->hold_lock);
    each_object(a, share_with, &bit);
    (void)pthread_mutex_unlock(&a->hold_lock);
    return bit != 0 ? US_OK : us_last_code();
}

/* ---- one participant's estate ---- */

struct estate {
    struct us_thread *t;
    uint32_t slot;
    bool force, incomplete;
    uint64_t objects;
};

/* Nothing of the last owner's is left to see. */
static void clean(struct us_arena *a, const struct us_spot *spot)
{
    uint64_t bytes = us_spot_bytes(a, spot);
    char *data = us_at(a, spot->offset);

    if (spot->cache == NULL || !spot->cache->has_ctor) {
        memset(data, 0, bytes);
    } else if (spot->cache->image != NULL) {
        memcpy(data, spot->cache->image, spot->cache->object_size);
    }
}

/* The mark is believed only of what is in the list of channels. */
static bool is_channel(struct us_arena *a, struct us_spot *spot)
{
    if (!us_holders_read(us_spot_pair(a, spot)).channel ||
        !us_committed(a, a->at.channels)) {
        return false;
    }
    for (uint32_t i = 0; i < US_CHANNELS; i++) {
        if (us_load_acquire64(us_channel_entry(a, i)) == spot->offset) {
            return true;
        }
    }
    return false;
}

/* The object is tagged with our name. */
static void free_ours(struct us_arena *a, struct estate *e, struct us_spot *spot)
{
    if (is_channel(a, spot)) {
        us_channel_drain(a, e->t, spot->offset);
    }
    if (spot->usable == 0) {
        spot->usable = spot->cache != NULL
                           ? spot->cache->object_size
                           : us_load_relaxed64(&a->pages[spot->page].requested);
    }
    clean(a, spot);
    if (us_kfree(a, us_at(a, spot->offset), -1) == US_OK) {
        e->objects++;
    } else {
        e->incomplete = true;
    }
}

static bool take_over(struct us_arena *a, struct us_spot *spot, void *arg)
{
    struct estate *e = arg;
    uint16_t tag = us_load_acquire16(spot->tag);
    bool last = false;

    if (tag == US_TAG_SHARED) {
        if (us_spot_pair(a, spot).lo >> e->slot & 1) {
            (void)pthread_mutex_lock(&a->hold_lock);
            us_intent_begin(e->t, US_OP_DROP, spot->offset);
            (void)us_hold_remove(a, spot, 1ULL << e->slot, 0, &last);
            (void)pthread_mutex_unlock(&a->hold_lock);
        }
    } else if ((tag & US_TAG_OWNER) == e->slot + 1) {
        if ((tag & US_TAG_MOVING) && !e->force) {
            e->incomplete = true;
        } else {
            us_intent_begin(e->t, US_OP_DROP, spot->offset);
            last = us_cas_acq_rel16(spot->tag, &tag, us_me(a));
        }
    }
    if (last) {
        free_ours(a, e, spot);
    }
    us_intent_end(e->t);
    return true;
}

/* Tickets that nobody has received. */
static void empty_outbox(struct us_arena *a, struct estate *e)
{
    for (uint32_t place = 0; place < US_OUTBOX; place++) {
        struct us_pair *record = us_outbox_look(a, e->slot, place), full, free;
        struct us_spot spot;
        bool last = false;

        if (record == NULL) {
            return; /* they are committed in order */
        }
        full.hi = us_load_acquire64(&record->hi);
        full.lo = us_load_acquire64(&record->lo);
        if (full.lo == 0) {
            continue;
        }
        if (!e->force) {
            e->incomplete = true;
            return;
        }
        free = (struct us_pair){.lo = 0, .hi = full.hi};
        us_intent_begin(e->t, US_OP_TAKE, full.lo & US_OFFSET_MASK);
        if (us_cas_pair(record, full, free) &&
            us_spot_find(a, full.lo, &spot) == US_OK) {
            (void)pthread_mutex_lock(&a->hold_lock);
            (void)us_hold_remove(a, &spot, 0, 1, &last);
            (void)pthread_mutex_unlock(&a->hold_lock);
            if (last) {
                free_ours(a, e, &spot);
            }
        }
        us_intent_end(e->t);
    }
}

/* ---- counting the transits of one object again ---- */

static bool named_by_the_living(struct us_arena *a, const struct estate *e,
                                uint64_t offset)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high);

    for (uint32_t i = 0; i < high && i < US_THREADS; i++) {
        struct us_thread *t = us_thread_at(a, i);
        uint64_t intent = us_load_acquire64(&t->intent);
        uint32_t process = us_load_acquire32(&t->state);

        if (t != e->t && process != 0 && process != e->slot + 1 &&
            intent >> US_OP_SHIFT >= US_OP_SHARE &&
            (intent & US_OFFSET_MASK) == offset && us_process_alive(a, process - 1)) {
            return true;
        }
    }
    return false;
}

#define ANY UINT64_MAX

static bool names(uint64_t lo, uint64_t offset)
{
    lo &= US_OFFSET_MASK;
    return offset == ANY ? lo != 0 : lo == offset;
}

static uint32_t count_in_channel(struct us_arena *a, uint64_t channel, uint64_t offset)
{
    uint32_t capacity, count = 0;
    struct us_channel_block *block =
        channel == 0 ? NULL : us_channel_at(a, channel, &capacity);

    for (uint32_t i = 0; block != NULL && i < capacity; i++) {
        uint64_t hi = us_load_acquire64(&block->cells[i].hi);
        uint64_t lo = us_load_acquire64(&block->cells[i].lo);

        count += (hi & US_CELL_FULL) && names(lo, offset);
    }
    return count;
}

/* Places that name the object. */
static uint32_t count_places(struct us_arena *a, uint64_t offset)
{
    bool channels = us_committed(a, a->at.channels);
    uint32_t count = 0;

    for (uint32_t i = 0; channels && i < US_CHANNELS; i++) {
        count += count_in_channel(a, us_load_acquire64(us_channel_entry(a, i)), offset);
    }
    for (uint32_t process = 0; process < US_PROCESSES; process++) {
        for (uint32_t place = 0; place < US_OUTBOX; place++) {
            const struct us_pair *record = us_outbox_look(a, process, place);

            if (record == NULL) {
                break;
            }
            count += names(us_load_acquire64(&record->lo), offset);
        }
    }
    return count;
}

uint64_t us_places(struct us_arena *a)
{
    return count_places(a, ANY);
}

/*
 * The dead thread was in the middle of an operation on this object: its pair may count
 * one transit too many, or be empty with nobody left to free the object. What changes
 * meanwhile changes the version; what is about to change is named by an intent.
 */
static bool recount(struct us_arena *a, struct estate *e, uint64_t offset)
{
    struct us_spot spot;

    if (us_spot_find(a, offset, &spot) != US_OK) {
        return true; /* free already */
    }
    for (int tries = 0; tries < 1000; tries++) {
        struct us_pair old = us_spot_pair(a, &spot);
        struct us_holders h = us_holders_read(old);
        uint16_t shared = US_TAG_SHARED;
        uint32_t count;

        if (us_load_acquire16(spot.tag) != US_TAG_SHARED) {
            return true;
        }
        if (named_by_the_living(a, e, offset)) {
            us_relax();
            continue;
        }
        count = count_places(a, offset);
        if (named_by_the_living(a, e, offset)) {
            continue;
        }
        h.transits = count;
        us_intent_begin(e->t, US_OP_DROP, offset);
        if (us_cas_pair(spot.holders, old, us_holders_next(h))) {
            if (us_holders_none(h) && us_cas_acq_rel16(spot.tag, &shared, us_me(a))) {
                free_ours(a, e, &spot);
            }
            us_intent_end(e->t);
            return true;
        }
        us_intent_end(e->t);
    }
    return false;
}

/* ---- what the threads were doing ---- */

/* True: none of them was inside the allocator; what they did to shared objects is
 * mended. */
static bool settle_threads(struct us_arena *a, struct estate *e)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high);
    bool settled = true;

    for (uint32_t i = 0; i < high && i < US_THREADS; i++) {
        struct us_thread *t = us_thread_at(a, i);
        uint64_t intent = us_load_acquire64(&t->intent);

        if (t == e->t || us_load_acquire32(&t->state) != e->slot + 1 || intent == 0) {
            continue;
        }
        if (intent >> US_OP_SHIFT < US_OP_ADOPT) {
            settled = false;
        } else if (intent >> US_OP_SHIFT > US_OP_ADOPT) {
            settled = recount(a, e, intent & US_OFFSET_MASK) && settled;
        }
    }
    return settled;
}

static bool inside_the_allocator(struct us_arena *a, const struct estate *e)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high);

    for (uint32_t i = 0; i < high && i < US_THREADS; i++) {
        struct us_thread *t = us_thread_at(a, i);
        uint64_t intent = us_load_acquire64(&t->intent);

        if (t != e->t && us_load_acquire32(&t->state) == e->slot + 1 &&
            (us_load_acquire32(&t->locks) != 0 ||
             (intent != 0 && intent >> US_OP_SHIFT < US_OP_ADOPT))) {
            return true;
        }
    }
    return false;
}

static void release_threads(struct us_arena *a, const struct estate *e)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high);

    for (uint32_t i = 0; i < high && i < US_THREADS; i++) {
        struct us_thread *t = us_thread_at(a, i);

        if (t != e->t && us_load_acquire32(&t->state) == e->slot + 1) {
            us_store_release64(&t->intent, 0);
            us_store_release32(&t->state, 0);
        }
    }
}

/* The estate of one participant: dead, or ourselves. The reaper's lock is held. */
static bool settle(struct us_arena *a, struct estate *e)
{
    e->t = us_thread_self(a);
    if (e->t == NULL || inside_the_allocator(a, e)) {
        return false;
    }
    each_object(a, take_over, e);
    empty_outbox(a, e);
    if (!settle_threads(a, e) || e->incomplete) {
        return false;
    }
    release_threads(a, e);
    return true;
}

bool us_recover_slot(struct us_arena *a, uint32_t slot, bool force)
{
    struct estate e = {.slot = slot, .force = force};
    bool done = false;

    for (int tries = 0; tries < 100 && !done; tries++) {
        if (begin_reaping(a)) {
            done = settle(a, &e);
            end_reaping(a);
            return done;
        }
        (void)usleep(1000);
    }
    return false;
}

/* ---- the dead ---- */

/* What a dead participant sent may still be received for a while. */
static bool lease_is_over(struct us_process *p)
{
    uint64_t now = boot_ns(), noticed = us_load_relaxed64(&p->noticed_ns);

    if (noticed == 0) {
        us_store_relaxed64(&p->noticed_ns, now);
        return false;
    }
    return now - noticed >= LEASE_NS;
}

static void reap_all(struct us_arena *a, bool force, struct us_reaped *ret)
{
    for (uint32_t slot = 0; slot < US_PROCESSES; slot++) {
        struct us_process *p = us_process_at(a, slot);
        struct estate e = {.slot = slot};

        bool settled;

        if (!us_process_claim(a, slot)) {
            continue;
        }
        e.force = lease_is_over(p) || force;
        settled = settle(a, &e);
        us_process_release(a, slot, settled);
        us_fetch_add_relaxed32(&a->header->reaped, settled);
        ret->processes += settled;
        ret->waiting += !settled;
        us_fetch_add_relaxed64(&a->header->reaped_objects, e.objects);
        ret->objects += e.objects;
    }
}

us_err us_reap(us_arena *a, struct us_reaped *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (us_thread_self(a) == NULL) {
        return us_last_code();
    }
    if (begin_reaping(a)) {
        reap_all(a, true, ret);
        end_reaping(a);
    }
    return US_OK;
}

void us_reap_now(struct us_arena *a)
{
    struct us_reaped reaped;

    (void)us_reap(a, &reaped);
}

void us_reap_soon(struct us_arena *a)
{
    struct us_reaped reaped = {0};

    if (us_thread_self(a) != NULL && begin_reaping(a)) {
        reap_all(a, false, &reaped);
        end_reaping(a);
    }
}

void us_reap_sometimes(struct us_arena *a)
{
    uint64_t now = boot_ns();

    if ((int64_t)(now - us_load_relaxed64(&a->reaped_ns)) < (int64_t)SOMETIMES_NS) {
        return;
    }
    us_store_relaxed64(&a->reaped_ns, now);
    us_reap_soon(a);
}
