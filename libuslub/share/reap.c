/* SPDX-License-Identifier: MIT */
/*
 * reap.c - what a participant leaves when it detaches or dies: its objects, its bits
 * among the holders of others, what it has sent and nobody received.
 *
 * One reaper at a time works on an arena: a lock on a byte of the file, which the
 * kernel drops with him. Every step is idempotent, so whoever comes after a reaper that
 * died begins again. What the dead were in the middle of is mended first
 * (docs/design/05-recovery.md), then what they had goes back (04-sharing.md).
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
#define SELDOM_NS    (1000ULL * 1000 * 1000) /* while a repair has to be repeated */
#define BATCH        256

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
    if (!us_mutex_trylock(&a->reap_lock)) {
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

static void each_of_slab(struct us_arena *a, uint32_t page, uint32_t order,
                         object_fn fn, void *arg)
{
    struct us_spot spot = {.page = page};
    uint32_t objects;

    spot.cache = us_cache_handle(a, us_load_relaxed32(&a->pages[page].cache));
    if (spot.cache == NULL || !us_block_fits(a, page, order)) {
        return;
    }
    objects = us_objects_of_order(spot.cache, order);
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
        uint32_t order;
        enum us_block_state state = us_block_state(a, page, &order);
        struct us_spot spot = {.page = page, .plane = US_TAG_PLANES - 1};

        if (state == US_BLOCK_SLAB) {
            each_of_slab(a, page, order, fn, arg);
        } else if (state == US_BLOCK_LARGE) {
            spot.offset = us_page_offset(page);
            spot.tag = us_large_tag(a, page);
            spot.holders = us_holders_at(a, spot.plane, spot.offset);
            if (us_load_relaxed16(spot.tag) != 0) {
                (void)fn(a, &spot, arg);
            }
        }
        page += us_block_step(a, state, order);
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
    us_mutex_lock(&a->hold_lock);
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
    struct us_cache *cache; /* of the batch: objects that are ours now, to be freed */
    uint32_t page, batched;
    void *batch[BATCH];
    const struct us_lost *lost; /* of a participant that lives; NULL: it is dead */
};

static void free_batch(struct us_arena *a, struct estate *e)
{
    if (e->batched != 0 && us_free_detached(e->cache, e->t, us_cpu_slot(a), e->batched,
                                            e->batch) == US_OK) {
        e->objects += e->batched;
    } else if (e->batched != 0) {
        e->incomplete = true;
    }
    e->batched = 0;
}

/* The objects of one slab go back together. */
static void batch(struct us_arena *a, struct estate *e, const struct us_spot *spot)
{
    if (e->batched == BATCH || e->page != spot->page) {
        free_batch(a, e);
    }
    e->cache = spot->cache;
    e->page = spot->page;
    e->batch[e->batched++] = us_at(a, spot->offset);
}

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
        spot->usable = spot->cache != NULL ? spot->cache->object_size
                                           : us_large_usable(a, spot->page);
    }
    clean(a, spot);
    if (spot->cache != NULL) {
        batch(a, e, spot);
    } else if (us_kfree(a, us_at(a, spot->offset), -1) == US_OK) {
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
            us_mutex_lock(&a->hold_lock);
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
            us_mutex_lock(&a->hold_lock);
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

        if (t != e->t && intent >> US_OP_SHIFT >= US_OP_SHARE &&
            (intent & US_OFFSET_MASK) == offset && !us_thread_dead(a, i)) {
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
    struct us_channel_block *block = us_channel_at(a, channel, &capacity);

    for (uint32_t i = 0; block != NULL && i < capacity; i++) {
        uint64_t hi = us_load_acquire64(&block->cells[i].hi);
        uint64_t lo = us_load_acquire64(&block->cells[i].lo);

        count += (hi & US_CELL_FULL) && names(lo, offset);
    }
    return count;
}

/* A channel that somebody has listed a thousand times is not walked as often. */
static bool listed_before(const struct us_arena *a, uint32_t entry, uint64_t channel)
{
    for (uint32_t i = 0; i < entry; i++) {
        if (us_load_relaxed64(us_channel_entry(a, i)) == channel) {
            return true;
        }
    }
    return false;
}

/* Places that name the object. */
static uint32_t count_places(struct us_arena *a, uint64_t offset)
{
    bool channels = us_committed(a, a->at.channels);
    uint32_t count = 0;

    for (uint32_t i = 0; channels && i < US_CHANNELS; i++) {
        uint64_t channel = us_load_acquire64(us_channel_entry(a, i));

        if (channel != 0 && !listed_before(a, i, channel)) {
            count += count_in_channel(a, channel, offset);
        }
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

/* ---- threads ---- */

static void release_thread(struct us_thread *t)
{
    us_store_release64(&t->intent, 0);
    us_store_release32(&t->locks, 0);
    us_store_release32(&t->changing, 0);
    us_store_release32(&t->state, 0);
}

/* What the thread did to a shared object is counted again. */
static bool settle_thread(struct us_arena *a, struct estate *e, struct us_thread *t)
{
    uint64_t intent = us_load_acquire64(&t->intent);

    return intent >> US_OP_SHIFT <= US_OP_ADOPT ||
           recount(a, e, intent & US_OFFSET_MASK);
}

/* The threads of a participant that detaches or is dead, but for our own. */
static bool settle_threads(struct us_arena *a, struct estate *e, bool release)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high);
    bool settled = true;

    for (uint32_t i = 0; i < high && i < US_THREADS; i++) {
        struct us_thread *t = us_thread_at(a, i);
        uint32_t state = us_load_acquire32(&t->state);

        if (t == e->t || (state & ~US_THREAD_DEAD) != e->slot + 1) {
            continue;
        }
        if (e->lost != NULL && (state & US_THREAD_DEAD) &&
            !us_lost_before(e->lost, i)) {
            settled = false;
        } else if (release) {
            release_thread(t);
        } else {
            settled = settle_thread(a, e, t) && settled;
        }
    }
    return settled;
}

/* Is a thread of ours in the middle of a call while another one detaches? */
static bool busy(struct us_arena *a, const struct estate *e)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high);

    for (uint32_t i = 0; i < high && i < US_THREADS; i++) {
        const struct us_thread *t = us_thread_at(a, i);

        if (t != e->t && us_load_acquire32(&t->state) == e->slot + 1 &&
            (us_load_relaxed32(&t->locks) != 0 || us_load_relaxed64(&t->intent) != 0)) {
            return true;
        }
    }
    return false;
}

/* Threads that ended inside a call, while their process lives on. */
static uint32_t settle_lost_threads(struct us_arena *a, struct us_thread *self,
                                    const struct us_lost *lost)
{
    uint32_t high = us_load_acquire32(&a->header->thread_high), count = 0;

    for (uint32_t i = 0; i < high && i < US_THREADS; i++) {
        struct us_thread *t = us_thread_at(a, i);
        uint32_t state = us_load_acquire32(&t->state);
        struct estate e = {.t = self, .slot = US_PROCESSES};

        if (!(state & US_THREAD_DEAD) || !us_lost_before(lost, i) ||
            !us_process_alive(a, (state & ~US_THREAD_DEAD) - 1) ||
            !settle_thread(a, &e, t)) {
            continue;
        }
        free_batch(a, &e);
        release_thread(t);
        count++;
    }
    us_fetch_add_relaxed32(&a->header->reaped_threads, count);
    return count;
}

/*
 * The estate of one participant: dead, or ourselves. The reaper's lock is held;
 * `mended`: nothing that its threads were in the middle of is left.
 */
static bool settle(struct us_arena *a, struct estate *e, bool mended)
{
    if (us_load_relaxed32(&us_process_at(a, e->slot)->state) == US_PROCESS_LIVE) {
        each_object(a, take_over, e);
        free_batch(a, e);
        empty_outbox(a, e);
        free_batch(a, e);
    }
    if (!settle_threads(a, e, false) || e->incomplete || !mended) {
        free_batch(a, e);
        return false;
    }
    free_batch(a, e);
    return settle_threads(a, e, true);
}

static bool settle_one(struct us_arena *a, struct estate *e)
{
    struct us_reaped reaped = {0};
    struct us_lost lost;

    us_lost_look(a, &lost);
    e->lost = &lost;
    e->t = us_thread_self(a);
    return e->t != NULL && !busy(a, e) && settle(a, e, us_mend(a, e->t, &reaped));
}

bool us_recover_slot(struct us_arena *a, uint32_t slot, bool force)
{
    struct estate e = {.slot = slot, .force = force};
    bool done = false;

    for (int tries = 0; tries < 100 && !done; tries++) {
        if (begin_reaping(a)) {
            done = settle_one(a, &e);
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

/* The dead, each locked by us. */
static uint64_t claim_all(struct us_arena *a)
{
    uint64_t claimed = 0;

    for (uint32_t slot = 0; slot < US_PROCESSES; slot++) {
        claimed |= (uint64_t)us_process_claim(a, slot) << slot;
    }
    return claimed;
}

static void settle_all(struct us_arena *a, struct us_thread *t, uint64_t claimed,
                       bool force, bool mended, struct us_reaped *ret)
{
    for (; claimed != 0; claimed &= claimed - 1) {
        uint32_t slot = (uint32_t)__builtin_ctzll(claimed);
        struct estate e = {.slot = slot, .t = t};
        bool settled;

        e.force = lease_is_over(us_process_at(a, slot)) || force;
        settled = settle(a, &e, mended);
        us_process_release(a, slot, settled);
        us_fetch_add_relaxed32(&a->header->reaped, settled);
        ret->processes += settled;
        ret->waiting += !settled;
        us_fetch_add_relaxed64(&a->header->reaped_objects, e.objects);
        ret->objects += e.objects;
    }
}

static void note_time(struct us_arena *a, uint64_t began, const struct us_reaped *ret)
{
    struct us_header *h = a->header;
    uint64_t took = boot_ns() - began;
    struct timespec now;

    if (ret->processes == 0 && ret->threads == 0 && ret->caches == 0) {
        return;
    }
    (void)clock_gettime(CLOCK_REALTIME, &now);
    us_store_relaxed64(&h->reap_last_ns, took);
    us_fetch_add_relaxed64(&h->reap_total_ns, took);
    if (took > us_load_relaxed64(&h->reap_max_ns)) {
        us_store_relaxed64(&h->reap_max_ns, took);
    }
    us_store_relaxed64(&h->reap_last_at,
                       (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
}

static void reap_all(struct us_arena *a, struct us_thread *t, bool force,
                     struct us_reaped *ret)
{
    uint64_t began = boot_ns(), claimed, pause;
    struct us_lost lost;
    bool mended;

    us_lost_look(a, &lost);
    claimed = claim_all(a);
    us_pages_keep(a, t, true);
    mended = us_mend(a, t, ret);
    settle_all(a, t, claimed, force, mended, ret);
    us_pages_keep(a, t, false);
    if (mended) {
        ret->threads = settle_lost_threads(a, t, &lost);
    }
    note_time(a, began, ret);
    /* What could not be done at once is not tried again at once. */
    pause = us_load_pointer(&a->reap_pause);
    if (mended && ret->doubtful == 0) {
        us_store_pointer(&a->reap_pause, 0);
    } else if (pause < SELDOM_NS) {
        us_store_pointer(&a->reap_pause, pause * 2 + SOMETIMES_NS);
    }
}

us_err us_reap(us_arena *a, struct us_reaped *ret)
{
    struct us_thread *t = us_thread_self(a);

    memset(ret, 0, sizeof(*ret));
    if (t == NULL) {
        return us_last_code();
    }
    us_threads_look(a); /* fork() takes the registry first, too */
    if (begin_reaping(a)) {
        reap_all(a, t, true, ret);
        end_reaping(a);
    }
    return us_arena_sound(a);
}

void us_reap_now(struct us_arena *a)
{
    struct us_reaped reaped;

    (void)us_reap(a, &reaped);
}

void us_reap_soon(struct us_arena *a)
{
    struct us_reaped reaped = {0};

    struct us_thread *t = us_thread_self(a);

    if (t == NULL) {
        return;
    }
    us_threads_look(a);
    if (begin_reaping(a)) {
        reap_all(a, t, false, &reaped);
        end_reaping(a);
    }
}

void us_reap_sometimes(struct us_arena *a)
{
    uint64_t now = boot_ns();

    if ((int64_t)(now - us_load_relaxed64(&a->reaped_ns)) <
        (int64_t)(us_load_pointer(&a->reap_pause) + SOMETIMES_NS)) {
        return;
    }
    us_store_relaxed64(&a->reaped_ns, now);
    us_reap_soon(a);
}
