/* SPDX-License-Identifier: MIT */
/*
 * arena.h - this process's view of one arena: the mapping, and private copies of
 * whatever must not change under us.
 *
 * Does: create, attach, commit, hand out runs of pages, register processes and threads.
 * Does not: know slabs or caches beyond their size in the layout.
 */
#ifndef US_ARENA_ARENA_H
#define US_ARENA_ARENA_H

#include <pthread.h>
#include <sys/types.h>

#include "arena/layout.h"
#include "arena/page_word.h"
#include "base/error.h"

struct us_cache;

#define US_KMALLOC_FAMILIES 4
#define US_KMALLOC_CLASSES  14

/* On a page that the kernel wipes in a forked child: a child is nobody until it
 * registers. */
struct us_self {
    uint64_t id;    /* this attachment; never reused in a process; 0: not registered */
    uint16_t owner; /* tag of this process: slot + 1 */
};

/* References of this process to shared objects, beyond the first; see cache/hold.c. */
struct us_ref {
    uint64_t offset; /* 0: no entry */
    uint64_t count;
};
struct us_refs {
    struct us_ref *entries;
    size_t room, used; /* room: a power of two, or 0 */
};

struct us_arena {
    char *base;
    struct us_self *self;
    struct us_page *pages; /* indexed by page number; valid from first_page on */
    uint64_t data_start, data_bytes;
    uint32_t first_page, end_page;
    uint32_t cpus, nodes;
    struct us_header *header;
    struct us_layout at;
    struct us_config config;
    uint32_t zonelist[US_NODES_MAX][US_NODES_MAX]; /* nodes by distance */

    int fd;            /* holds the life lock: never leaves the library */
    int passed_fd;     /* a description of its own, for us_arena_fd(); -1: none yet */
    uint32_t keep_all; /* see us_pages_keep() */
    uint32_t refs;     /* attachments of this process to the same file */
    dev_t dev;
    ino_t ino;
    char name[256];
    bool looking;          /* us_arena_look(): read-only, and nobody in it */
    struct us_arena *next; /* registry of this process */
    pthread_mutex_t handles_lock;
    struct us_cache **handles;              /* by cache id */
    void (*drop_handle)(struct us_cache *); /* frees one and its elders */
    struct us_cache
        *kmalloc[US_KMALLOC_FAMILIES][US_KMALLOC_CLASSES]; /* as found; atomic */
    pthread_mutex_t hold_lock; /* extra and outbox; taken for a few swaps */
    struct us_refs extra;
    uint32_t outbox_next; /* where to look for a free record */
    uint32_t fork_slot;   /* reserved for the child while fork() is under way ... */
    int fork_fd;          /* ... with its life lock; -1: none */
    uint64_t slow_paths;  /* of allocations of this process; may lose some */
    uint64_t reaped_ns;   /* when this process last looked for the dead */
    uint64_t reap_pause;  /* and for how much longer it then waits; reap_lock */
    pthread_mutex_t reap_lock; /* one of its threads at a time reaps */
};

/* Says so, as US_EPOISONED. */
us_err us_arena_poisoned(const struct us_arena *a);

/* Mutexes of this process; who held one may have been cancelled. */
void us_mutex_lock(pthread_mutex_t *mutex);
bool us_mutex_trylock(pthread_mutex_t *mutex);

/* Serialises attach, detach and registration within this process. */
void us_registry_lock(void);
void us_registry_unlock(void);
/* The attachment with this id, if it is still there; registry locked. */
struct us_arena *us_registry_find(uint64_t id);
uint64_t us_registry_next_id(void);

/* ---- bounds ---- */

/* Is this the number of a page for objects? */
US_INLINE bool us_page_valid(const struct us_arena *a, uint64_t page)
{
    return page >= a->first_page && page < a->end_page;
}

US_INLINE uint64_t us_page_offset(uint32_t page)
{
    return (uint64_t)page << US_PAGE_SHIFT;
}

US_INLINE void *us_at(const struct us_arena *a, uint64_t offset)
{
    return a->base + offset;
}

US_INLINE uint32_t us_page_node(const struct us_arena *a, uint32_t page)
{
    return a->nodes == 1 ? 0
                         : (uint32_t)((page - a->first_page) / a->config.node_pages);
}

US_INLINE uint32_t us_node_start(const struct us_arena *a, uint32_t node)
{
    return a->first_page + (uint32_t)(node * a->config.node_pages);
}

/* Can a block of this order begin at `page`? */
US_INLINE bool us_block_fits(const struct us_arena *a, uint32_t page, uint32_t order)
{
    uint32_t place;

    if (!us_page_valid(a, page) || order >= a->at.orders) {
        return false;
    }
    place = page - us_node_start(a, us_page_node(a, page));
    return (place & ((1ULL << order) - 1)) == 0 &&
           place + (1ULL << order) <= a->config.node_pages;
}

US_INLINE uint64_t us_self_id(const struct us_self *self)
{
    return us_load_acquire64(&self->id);
}

/* The process's tag for what it owns. */
US_INLINE uint16_t us_me(const struct us_arena *a)
{
    return us_load_relaxed16(&a->self->owner);
}

/* ---- limit.c and commit.c: backing memory ---- */

/* US_ENOMEM if the control group of this process would not let us have `bytes` more. */
us_err us_limit_ask(const struct us_arena *a, uint64_t bytes);

/*
 * Makes [offset, offset + bytes) of the file real memory. Until then reading it may be
 * a SIGBUS; afterwards it never is. US_ENOMEM names the reason.
 */
us_err us_commit(struct us_arena *a, uint64_t offset, uint64_t bytes);
uint64_t us_committed_pages(const struct us_arena *a, uint64_t offset, uint64_t bytes);
/* Gives the range back; the caller is the only one who may use it. */
void us_uncommit(struct us_arena *a, uint64_t offset, uint64_t bytes);

US_INLINE bool us_committed(const struct us_arena *a, uint64_t offset)
{
    const uint64_t *map = us_at(a, a->at.commit_map);
    uint64_t page = offset >> US_PAGE_SHIFT;

    return us_load_acquire64(map + page / 64) >> (page % 64) & 1;
}

/* Descriptor of `page`, or NULL if it is out of range or was never touched. */
US_INLINE struct us_page *us_page_at(const struct us_arena *a, uint64_t page)
{
    struct us_page *p = a->pages + page;

    return us_page_valid(a, page) && us_committed(a, (uint64_t)((char *)p - a->base))
               ? p
               : NULL;
}

/* ---- process.c: participants ---- */

us_err us_process_register(struct us_arena *a);
/* Takes a slot for somebody else, alive as long as a copy of *fd is open. */
us_err us_process_reserve(struct us_arena *a, uint32_t *slot, int *fd);
/* The slot of somebody who is dead, locked by us until us_process_release(). */
bool us_process_claim(struct us_arena *a, uint32_t slot);
void us_process_release(struct us_arena *a, uint32_t slot, bool settled);
/* This process is who `slot` was reserved for. */
void us_process_become(struct us_arena *a, uint32_t slot);
void us_process_unregister(struct us_arena *a);
bool us_process_alive(const struct us_arena *a, uint32_t slot);
/* The slot of the calling thread; registers it the first time. NULL: us_last_error().
 */
struct us_thread *us_thread_register(struct us_arena *a);
struct us_process *us_process_at(const struct us_arena *a, uint32_t slot);
struct us_thread *us_thread_at(const struct us_arena *a, uint32_t slot);
uint32_t us_thread_slot(const struct us_arena *a, const struct us_thread *t);
/* Registers this process for the fence that us_fence_everywhere() needs. */
bool us_fence_join(void);
/* A full fence in every thread of every participant. False: not available. */
bool us_fence_everywhere(void);

/* Cache of us_thread_register(): one arena deep. */
#define US_TLS_NOBODY UINT64_MAX /* unlike the 0 of a process that has just forked */
extern _Thread_local struct us_tls {
    uint64_t id;
    struct us_thread *thread;
} us_tls;

/* Is the thread in this slot gone for good? True also for slots that nobody has. */
bool us_thread_dead(const struct us_arena *a, uint32_t slot);
/* Threads of this process that vanished without a word are marked as dead. */
void us_threads_look(struct us_arena *a);
/* In a forked child. */
void us_threads_forget(void);

US_INLINE struct us_thread *us_thread_self(struct us_arena *a)
{
    if (US_LIKELY(us_tls.id == us_self_id(a->self))) {
        return us_tls.thread;
    }
    return us_thread_register(a);
}

#ifndef US_NO_CRASH_SAFETY /* else see us_tag_look() */
/* Intent records: written before the first shared store of an operation ... */
US_INLINE void us_intent_begin(struct us_thread *t, enum us_operation op,
                               uint64_t offset)
{
    us_store_release64(&t->intent, ((uint64_t)op << US_OP_SHIFT) | offset);
    us_compiler_barrier();
}

/* ... and cleared after the last. */
US_INLINE void us_intent_end(struct us_thread *t)
{
    us_store_release64(&t->intent, 0);
}
#else
US_INLINE void us_intent_begin(struct us_thread *t, enum us_operation op,
                               uint64_t offset)
{
    (void)t, (void)op, (void)offset;
}

US_INLINE void us_intent_end(struct us_thread *t)
{
    (void)t;
}
#endif

/* ---- the calls upward: share/reap.c ---- */

/* Every few milliseconds at most: looks if somebody has died. Holds no lock. */
void us_reap_sometimes(struct us_arena *a);
/* The same at once. */
void us_reap_soon(struct us_arena *a);
/* The same with all that the dead have sent in vain. */
void us_reap_now(struct us_arena *a);

/*
 * Gives back what the participant `slot`, who is dead or ourselves, still has; `force`:
 * also what he sent and nobody has received yet. False: not all of it could be had, the
 * slot stays as it is. The registry is locked or the caller is the only one to do so.
 */
bool us_recover_slot(struct us_arena *a, uint32_t slot, bool force);
/* fork() is about to be called: what we hold, `slot` holds too. */
us_err us_share_all(struct us_arena *a, uint32_t slot);

/* ---- lock.c: locks that name their owner ---- */

/*
 * Waits some milliseconds at most. US_ELOCKED: the holder is alive and does not let go.
 * US_EOWNERDEAD: it is dead.
 */
us_err us_lock(struct us_arena *a, struct us_thread *t, uint32_t *word);
/* The same within two seconds: where there is no other way to go. */
us_err us_lock_patiently(struct us_arena *a, struct us_thread *t, uint32_t *word);
/* For a reaper: also the lock of a dead holder, whose work is then to be mended. */
us_err us_lock_inherit(struct us_arena *a, struct us_thread *t, uint32_t *word);
bool us_trylock(struct us_arena *a, struct us_thread *t, uint32_t *word);
void us_unlock(struct us_thread *t, uint32_t *word);
/* Thread slot + 1 of who holds it, 0: nobody. */
uint32_t us_lock_holder(uint32_t word);

/* US_EPOISONED if the arena has been given up. */
US_INLINE us_err us_arena_sound(const struct us_arena *a)
{
    return US_LIKELY(us_load_relaxed32(&a->header->poisoned) == 0)
               ? US_OK
               : us_arena_poisoned(a);
}

/* ---- pages.c: runs of 2^order pages ---- */

struct us_run {
    uint32_t page;
    uint32_t order;
    uint32_t node;
    bool reserve; /* only an emergency request could have it */
};

/*
 * A block of 2^order pages, state ALLOC, its first `reach` bytes committed. Looks on
 * `node` first (-1: the node of `cpu`), then, unless US_GFP_THISNODE, on the others by
 * distance.
 */
us_err us_pages_alloc(struct us_arena *a, struct us_thread *t, uint32_t gfp, int cpu,
                      int node, uint32_t order, uint64_t reach, struct us_run *ret);
/* ALLOC -> SLAB, LARGE or META: the block is complete, others may find it. */
void us_pages_publish(struct us_arena *a, uint32_t page, enum us_block_state state);
/* The way back: nobody finds what was in the block any more, and it is ours. */
void us_pages_unpublish(struct us_arena *a, struct us_thread *t, uint32_t page);
/* A block that is ours is free. */
void us_pages_free(struct us_arena *a, struct us_thread *t, uint32_t page);
us_err us_pages_init(struct us_arena *a);
/* While a reaper frees much at once this process keeps free pages; afterwards what is
 * too much goes back, in blocks as large as they have become. */
void us_pages_keep(struct us_arena *a, struct us_thread *t, bool all);

/* ---- mend.c: blocks that the dead were working on ---- */

/*
 * Frees the blocks of dead threads and, if `all` or page counters are in doubt, makes
 * bitmaps and counters anew. False: not now, somebody alive is in the middle of it.
 */
bool us_mend_pages(struct us_arena *a, struct us_thread *t, bool all);

/* State and order of the block that begins at `page`; TAIL if none does. What the word
 * says need not fit: see us_block_fits(). */
US_INLINE enum us_block_state us_block_state(const struct us_arena *a, uint32_t page,
                                             uint32_t *order)
{
    const struct us_page *p = us_page_at(a, page);
    struct us_page_word word =
        us_page_word_read(p == NULL ? 0 : us_load_acquire64(&p->word));

    *order = word.order;
    return word.state;
}

/* Pages from a block to where the next may begin. What is being split ends in the
 * middle: its upper half may be somebody else's by now. */
US_INLINE uint32_t us_block_step(const struct us_arena *a, enum us_block_state state,
                                 uint32_t order)
{
    if (state == US_BLOCK_TAIL || order >= a->at.orders) {
        return 1;
    }
    return 1u << (state == US_BLOCK_SPLIT && order != 0 ? order - 1 : order);
}

/* Is the block in the hands of this thread? */
US_INLINE bool us_pages_ours(const struct us_page *p, uint32_t thread_slot)
{
    struct us_page_word word = us_page_word_read(us_load_acquire64(&p->word));

    return word.state == US_BLOCK_ALLOC && word.owner == thread_slot + 1;
}

/* First page of the block around `page`, 0 if there is none that makes sense. */
uint32_t us_block_head(const struct us_arena *a, uint32_t page);

#endif
