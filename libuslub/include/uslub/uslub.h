/* SPDX-License-Identifier: MIT */
/*
 * uslub.h - the Linux SLUB slab allocator on memory that many processes map.
 *
 * Caveats first:
 *  - An arena never holds a pointer. Two processes see one object at two addresses;
 *    what they share is its offset (us_offset(), us_pointer()).
 *  - An object belongs to the process that allocated it, until us_send() shares it:
 *    then to every process that holds it, and the last us_free() frees it.
 *  - Every call may be made from any thread of any attached process at any time, except
 *    where a comment says otherwise. After fork() the child is a participant of its
 * own.
 *  - Calls that fail return NULL or a code other than US_OK; us_last_error() then says,
 * for this thread, who, what happened, what was expected and what to do.
 *  - `cpu` and `node` arguments: -1 means "the nearest", any other value names one.
 */
#ifndef USLUB_H
#define USLUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define US_API __attribute__((visibility("default")))
#else
#define US_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* X(code, name): what can go wrong. The Python classes have the same names. */
#define US_ERRORS(X)                                                                   \
    X(US_OK, "ok")                                                                     \
    X(US_ENOMEM, "out of memory")                                                      \
    X(US_EDOUBLEFREE, "double free")                                                   \
    X(US_EFOREIGN, "foreign or interior address")                                      \
    X(US_EWRONGCACHE, "wrong cache")                                                   \
    X(US_ENOTOWNER, "object of another process")                                       \
    X(US_EBUSY, "cache busy")                                                          \
    X(US_ECACHEEXISTS, "cache exists with other parameters")                           \
    X(US_ENOCACHE, "no such cache")                                                    \
    X(US_ENOTFOUND, "arena not found")                                                 \
    X(US_EEXISTS, "arena exists")                                                      \
    X(US_ELAYOUT, "layout mismatch")                                                   \
    X(US_ECORRUPT, "corrupt arena")                                                    \
    X(US_ECLOSED, "closed arena")                                                      \
    X(US_EBADNAME, "bad name")                                                         \
    X(US_EBADSIZE, "bad size")                                                         \
    X(US_EBADARG, "bad argument")                                                      \
    X(US_ELIMIT, "table full")                                                         \
    X(US_EOWNERDEAD, "lock held by a dead process")                                    \
    X(US_ELOCKED, "lock held too long")                                                \
    X(US_EPOISONED, "poisoned")                                                        \
    X(US_ECTOR, "constructor failed")                                                  \
    X(US_ESTALE, "stale handle")                                                       \
    X(US_ETIMEDOUT, "timed out")                                                       \
    X(US_EHANGUP, "channel closed")                                                    \
    X(US_ESYSTEM, "system call failed")

typedef enum us_err {
#define US_X(code, text) code,
    US_ERRORS(US_X)
#undef US_X
} us_err;

typedef struct us_arena us_arena; /* this process's handle of one arena */
typedef struct us_cache us_cache; /* this process's handle of one cache */

/* Text of the last failure in this thread; valid until this thread's next failure. */
US_API const char *us_last_error(void);
US_API us_err us_last_code(void);
/* errno of the last US_ESYSTEM failure in this thread. */
US_API int us_last_errno(void);
US_API const char *us_error_name(us_err code);

/* ---- arenas ---------------------------------------------------------------- */

struct us_arena_config {
    uint64_t size;    /* bytes for objects; rounded up to whole pages per node */
    uint32_t cpus;    /* CPU slots; 0: as many as the machine has (at most 512) */
    uint32_t nodes;   /* memory nodes; 0: as many as the machine has (at most 16) */
    uint64_t reserve; /* bytes per node that only US_GFP_EMERGENCY may use */
    uint64_t keep; /* free bytes kept committed; UINT64_MAX: default (size / 4, <= 256
                      MiB) */
    uint32_t order_cpus; /* CPUs that the slab-order formula counts; 0: same as cpus */
};

/*
 * Creates an arena and attaches to it. With a name it lives in /dev/shm/uslub.NAME,
 * mode 0600, until us_arena_unlink(); without (NULL) on a sealed memfd that lasts as
 * long as somebody maps it or holds us_arena_fd().
 */
US_API us_err us_arena_create(const char *name, const struct us_arena_config *config,
                              us_arena **ret);
US_API us_err us_arena_attach(const char *name, us_arena **ret);
/* Attaches through a file descriptor, which stays the caller's. */
US_API us_err us_arena_attach_fd(int fd, us_arena **ret);
US_API us_err us_arena_unlink(const char *name);
/* Drops one attachment; the last one in this process unmaps. Handles of caches and
 * pointers into the arena must not be used afterwards. */
US_API void us_arena_detach(us_arena *arena);

struct us_arena_info {
    char name[256]; /* "" if anonymous */
    uint8_t id[16]; /* random, made at creation */
    uint32_t layout_version;
    uint32_t page_size;
    uint32_t cpus, nodes;
    uint64_t size;        /* bytes for objects */
    uint64_t file_size;   /* the same with all metadata (sparse) */
    uint64_t data_offset; /* where the pages for objects begin */
    uint64_t committed;   /* bytes that the file really occupies */
    uint64_t free_pages;
    uint64_t reserve_pages; /* per node */
    uint64_t keep;          /* free bytes that stay committed */
    uint64_t created_ns;    /* CLOCK_REALTIME */
    uint32_t caches;
    uint32_t processes;      /* registered participants that are alive */
    uint32_t processes_dead; /* registered participants that are gone */
};
US_API us_err us_arena_stat(us_arena *arena, struct us_arena_info *ret);
US_API int us_arena_fd(us_arena *arena);
/* Gives every free page back to the operating system; bytes given back in *ret. */
US_API us_err us_arena_trim(us_arena *arena, uint64_t *ret);

struct us_process_info {
    uint32_t slot;
    int32_t pid;            /* in its own namespace; 0: a child that is about to be */
    uint64_t start_time;    /* of the process: field 22 of /proc/PID/stat; 0: unknown */
    uint64_t pid_namespace; /* inode of /proc/PID/ns/pid; 0: unknown */
    bool alive;
    bool self;
};
/* Fills at most `max` entries; returns how many participants there are. */
US_API uint32_t us_arena_processes(us_arena *arena, struct us_process_info *ret,
                                   uint32_t max);

static inline void *us_pointer_at(void *base, uint64_t offset)
{
    return (char *)base + offset;
}
US_API void *us_arena_base(us_arena *arena);
US_API void *us_pointer(us_arena *arena, uint64_t offset);
US_API uint64_t us_offset(us_arena *arena, const void *pointer);

/* ---- caches ---------------------------------------------------------------- */

enum us_cache_flags {
    US_HWCACHE_ALIGN = 1u << 0,
    US_RECLAIM_ACCOUNT = 1u << 1,
    US_CACHE_DMA = 1u << 2,
    US_CACHE_DMA32 = 1u << 3,
    US_ACCOUNT = 1u << 4,
    US_NO_MERGE = 1u << 5,       /* nobody may merge with this cache */
    US_MERGE = 1u << 6,          /* merge with an existing cache if the rules allow */
    US_NO_CPU_PARTIAL = 1u << 7, /* as a kernel built without CONFIG_SLUB_CPU_PARTIAL */
    US_FREELIST_HARDENED = 1u << 8, /* encoded links */
    US_FREELIST_RANDOM = 1u << 9,   /* shuffled order of a new slab */
    /* Geometry only (us_geometry()); a cache that asks for one is refused. */
    US_TYPESAFE_BY_RCU = 1u << 16,
    US_CONSISTENCY_CHECKS = 1u << 17,
    US_RED_ZONE = 1u << 18,
    US_POISON = 1u << 19,
    US_STORE_USER = 1u << 20,
    US_KMALLOC = 1u << 21,
};

#define US_NAME_MAX 63 /* bytes in a cache name */

/* A constructor that runs in this process only; see us_cache_config.ctor. */
typedef bool (*us_ctor_fn)(void *object, void *context);

struct us_cache_config {
    uint64_t object_size;
    uint32_t align;
    uint32_t flags;
    const void *image; /* initial object_size bytes of every object, or NULL */
    us_ctor_fn ctor;   /* or a function: anonymous arenas only; false: failed */
    void *ctor_context;
    int32_t order;       /* -1: by the formula */
    int32_t min_partial; /* -1: by the formula */
    int32_t cpu_partial; /* objects; -1: by the formula */
    int32_t useroffset,
        usersize; /* region open to user copies; a cache with one never merges */
    int32_t
        defrag_ratio; /* remote_node_defrag_ratio, 0..1000, or 1024: always; -1: 1000 */
};
#define US_CACHE_CONFIG_INIT                                                           \
    {.order = -1, .min_partial = -1, .cpu_partial = -1, .defrag_ratio = -1}

/* The existing cache of that name with these parameters, or a new one. */
US_API us_err us_cache_create(us_arena *arena, const char *name,
                              const struct us_cache_config *config, us_cache **ret);
US_API us_err us_cache_find(us_arena *arena, const char *name, us_cache **ret);
/*
 * Fails with US_EBUSY while objects are in use; the cache lives on (flushed). An alias
 * only goes away.
 */
US_API us_err us_cache_destroy(us_arena *arena, const char *name);

struct us_geometry {
    uint64_t object_size, size; /* asked for; stride between objects */
    uint32_t align, offset, inuse, red_left_pad;
    uint32_t order, objects;         /* preferred layout (oo) */
    uint32_t min_order, min_objects; /* fallback layout (min) */
    uint32_t min_partial, cpu_partial, cpu_partial_slabs;
};
/* calculate_sizes() and friends, without an arena. */
US_API us_err us_geometry(const struct us_cache_config *config, uint32_t cpus,
                          struct us_geometry *ret);

struct us_cache_info {
    char name[US_NAME_MAX + 1];
    uint32_t id;
    struct us_geometry geometry;
    uint32_t flags;
    int32_t refcount;
    uint32_t defrag_ratio;
    bool has_ctor;
    int32_t useroffset, usersize;
    uint64_t slabs, objects_total; /* nr_slabs and total_objects over all nodes */
    uint64_t partial;              /* slabs on node partial lists */
    uint64_t partial_free;         /* free objects on those */
    uint64_t cpu_slabs;            /* CPU slabs and chain slabs, as in sysfs */
    uint64_t chain_slabs;          /* of those, on chains */
};
US_API us_err us_cache_stat(us_cache *cache, struct us_cache_info *ret);
/* The cache's own name, and its flags, without a lock: for what happens per object. */
US_API uint32_t us_cache_brief(us_cache *cache, char name[US_NAME_MAX + 1]);

/* In order of creation: calls fn for each cache; stops early when it returns false. */
US_API us_err us_cache_each(us_arena *arena, bool (*fn)(us_cache *, void *), void *arg);
/* Calls fn with every other name merged into `cache`, oldest first. */
US_API us_err us_cache_aliases(us_cache *cache, bool (*fn)(const char *, void *),
                               void *arg);

US_API us_err us_cache_set_min_partial(us_cache *cache, uint32_t min_partial);
/* Sets cpu_partial (objects) and cpu_partial_slabs by formula, and flushes every CPU.
 */
US_API us_err us_cache_set_cpu_partial(us_cache *cache, uint32_t cpu_partial);
US_API us_err us_cache_set_cpu_partial_slabs(us_cache *cache, uint32_t slabs);

/* ---- objects --------------------------------------------------------------- */

enum us_gfp {
    US_GFP_ZERO = 1u << 0,
    US_GFP_THISNODE = 1u << 1,    /* only from the node asked for */
    US_GFP_EMERGENCY = 1u << 2,   /* may use the reserve */
    US_GFP_RECLAIMABLE = 1u << 3, /* kmalloc: which family */
    US_GFP_DMA = 1u << 4,
    US_GFP_ACCOUNT = 1u << 5,
};

/* kmem_cache_alloc() and kmem_cache_free(): the fast ones. */
US_API void *us_alloc(us_cache *cache);
US_API us_err us_free(us_cache *cache, void *object);
/* The same with everything named. */
US_API void *us_alloc_on(us_cache *cache, uint32_t gfp, int cpu, int node);
US_API us_err us_free_on(us_cache *cache, void *object, int cpu);

/* All `n` objects or none. */
US_API us_err us_alloc_bulk(us_cache *cache, uint32_t gfp, int cpu, int node, size_t n,
                            void **ret);
US_API us_err us_free_bulk(us_cache *cache, size_t n, void *const *objects, int cpu);

/*
 * kmalloc(): up to 8192 bytes from the size caches, larger from the page allocator.
 * A request of 0 bytes is US_EBADSIZE.
 */
US_API void *us_kmalloc(us_arena *arena, uint64_t n, uint32_t gfp, int cpu, int node);
US_API us_err us_kfree(us_arena *arena, void *object, int cpu);
/* Keeps the object if it fits, else moves it; NULL leaves the old one as it was. */
US_API void *us_krealloc(us_arena *arena, void *object, uint64_t n, uint32_t gfp,
                         int cpu);
US_API uint64_t us_ksize(us_arena *arena,
                         const void *object); /* 0: no object of ours */

struct us_object_info {
    uint64_t offset;
    uint32_t page;  /* of the slab, counted from the first page for objects */
    uint32_t slab;  /* creation number of the slab in its cache */
    uint32_t index; /* of the object in its slab */
    uint32_t node;
    uint16_t owner; /* process slot + 1; 0: free or shared */
    bool moving;    /* let go by us_move(), not yet adopted */
    bool shared;    /* held by `holders`, a bit per process slot */
    uint64_t holders;
    uint32_t transits; /* handles and messages that nobody has received yet */
    bool large;        /* straight from the page allocator: no cache */
    us_cache *cache;   /* NULL if large */
    uint64_t usable;
};
/* Any address: US_EFOREIGN if it is not the start of an object slot. */
US_API us_err us_object_stat(us_arena *arena, const void *object,
                             struct us_object_info *ret);

/*
 * Hand-over. us_owner() is this process's owner tag. The sender calls us_move(): the
 * object is still its own, but nobody's to use; and passes (offset, tag) by any means.
 * The receiver (or the sender, to have it back) calls us_adopt(). A move is good for
 * one adoption. US_ENOTOWNER: somebody else was first, or the object is not on the
 * move.
 */
US_API us_err us_move(us_arena *arena, void *object);
US_API uint16_t us_owner(us_arena *arena);
US_API us_err us_adopt(us_arena *arena, uint64_t offset, uint16_t from);

/* ---- sharing --------------------------------------------------------------- */

/*
 * us_send() makes a ticket: plain values that travel by any means and count as one
 * holder until us_receive() takes them in, in any process that is attached. Sender and
 * receiver then hold the object, each frees it once per reference, and the last one
 * frees it for good. A ticket that nobody receives is given back when its sender has
 * gone. A ticket received again is one reference more, as long as the object lives;
 * then US_ESTALE, as for any that means nothing here.
 */
struct us_ticket {
    uint64_t offset;
    uint32_t incarnation; /* which object at that offset */
    uint32_t record;      /* process slot << 16 | place in its outbox */
    uint32_t serial;
};
US_API us_err us_send(us_arena *arena, void *object, struct us_ticket *ret);
US_API us_err us_receive(us_arena *arena, const struct us_ticket *ticket, void **ret);

/*
 * Channels: a bounded queue of objects in the arena, any number of senders and
 * receivers, first in, first out. A message holds its object; it survives its sender.
 * A channel is itself an object: us_send() of us_channel_object() makes a ticket for
 * it.
 */
typedef struct us_channel us_channel; /* this process's handle of one channel */
struct us_message {
    void *object;
    uint64_t nbytes; /* as the sender said */
    uint32_t format; /* of us_channel_format(), 0: none */
};
US_API us_err us_channel_create(us_arena *arena, uint32_t capacity, us_channel **ret);
/* What us_receive() returned for a channel: the reference becomes the handle's. */
US_API us_err us_channel_open(us_arena *arena, void *object, us_channel **ret);
/* Drops the reference; the last holder's drop drops the messages, too. */
US_API us_err us_channel_release(us_channel *channel);
US_API void *us_channel_object(us_channel *channel);
US_API uint32_t us_channel_capacity(us_channel *channel);
US_API uint32_t us_channel_length(us_channel *channel);
/* No more messages; what is in it may still be received. */
US_API void us_channel_close(us_channel *channel);
US_API bool us_channel_closed(us_channel *channel);
/*
 * The sender goes on holding the object. Timeouts in nanoseconds; 0: do not wait, -1:
 * for ever. US_ETIMEDOUT, US_EHANGUP (closed; for receivers: and empty). A signal ends
 * the wait with US_ETIMEDOUT.
 */
US_API us_err us_channel_send(us_channel *channel, const struct us_message *message,
                              int64_t timeout);
US_API us_err us_channel_receive(us_channel *channel, struct us_message *ret,
                                 int64_t timeout);
/* Waits until there is something to receive, or the channel is closed. */
US_API us_err us_channel_wait(us_channel *channel, int64_t timeout);
/* The number of a text of at most 120 bytes, the same in every process; US_ELIMIT after
 * 64 different ones. */
US_API us_err us_channel_format(us_channel *channel, const void *text, uint32_t length,
                                uint32_t *ret);
/* The text of a number: its length, 0 if there is none. */
US_API uint32_t us_channel_format_text(us_channel *channel, uint32_t format,
                                       char ret[120]);

struct us_reaped {
    uint32_t processes; /* dead participants whose slots are free again */
    uint32_t waiting;   /* dead ones that something keeps from being settled */
    uint64_t objects;   /* freed */
    uint32_t threads;   /* that ended inside a call of a living process: settled */
    uint32_t caches;    /* rebuilt from the owner tags */
    uint32_t doubtful;  /* caches whose rebuilding has to be repeated later */
};
/*
 * Gives back what dead participants held, and what they sent in vain, and mends what
 * they were in the middle of. All 0: there was nothing, or somebody else is doing it.
 */
US_API us_err us_reap(us_arena *arena, struct us_reaped *ret);

/* What recovery has done since the arena was made, and what is owed. */
struct us_health {
    bool poisoned; /* the arena */
    uint32_t poisoned_objects, poisoned_slabs;
    uint32_t doubtful;                  /* caches to be rebuilt again */
    bool pages_doubtful;                /* page counters to be made anew */
    uint32_t processes;                 /* dead participants settled */
    uint32_t threads;                   /* threads that ended inside a call, settled */
    uint32_t inside;                    /* of both: died inside the allocator */
    uint64_t objects;                   /* freed for them */
    uint64_t caches, slabs, blocks;     /* rebuilt; looked at in doing so; given back */
    uint64_t last_ns, max_ns, total_ns; /* of recoveries that found something */
    uint64_t last_at; /* when the last ended: CLOCK_REALTIME in ns; 0: never */
};
US_API us_err us_health(us_arena *arena, struct us_health *ret);

struct us_thread_info {
    uint32_t slot;
    uint32_t process;      /* its participant's slot */
    int32_t tid;           /* as it calls itself */
    uint32_t cache;        /* id of the cache it last worked on in a slow path */
    uint32_t locks;        /* it holds, or is about to take */
    const char *operation; /* "alloc", "free", ...; "" at rest */
    bool dead;             /* ended inside a call, or its process is dead */
};
/* Thread slots in use: their number; the first `max` in ret. */
US_API uint32_t us_arena_threads(us_arena *arena, struct us_thread_info *ret,
                                 uint32_t max);

/* Calls fn for each cache that there is, by id; takes no lock. */
US_API void us_cache_glance(us_arena *arena,
                            void (*fn)(uint32_t id, const char *name, bool doubtful,
                                       void *arg),
                            void *arg);

/*
 * An arena to be looked at from outside, also one that us_arena_attach() refuses as
 * poisoned. It is mapped read-only, and nobody takes part, waits or reaps: good for
 * us_health(), us_arena_threads(), us_arena_processes(), us_cache_glance() and
 * us_arena_look_end(), and for nothing else.
 */
US_API us_err us_arena_look(const char *name, us_arena **ret);
US_API void us_arena_look_end(us_arena *arena);

/* ---- upkeep ---------------------------------------------------------------- */

/* Deactivates the CPU slab and drains the chain of one CPU, or (-1) of all. */
US_API us_err us_cache_flush(us_cache *cache, int cpu);
/* The two halves of a flush, for replaying recorded interleavings. */
US_API us_err us_cache_flush_slab(us_cache *cache, int cpu);
US_API us_err us_cache_flush_chain(us_cache *cache, int cpu);
/* Flushes all CPUs, discards empty slabs, sorts the rest fullest first. */
US_API us_err us_cache_shrink(us_cache *cache);
/* The node half of a shrink: no flush. */
US_API us_err us_cache_shrink_nodes(us_cache *cache);
/* What happens when a CPU goes away: every cache's slot of that CPU is flushed. */
US_API us_err us_cpu_dead(us_arena *arena, int cpu);

/* ---- looking --------------------------------------------------------------- */

/* X(enumerator, name): CONFIG_SLUB_STATS; the two hottest first, to share a line. */
#define US_STATS(X)                                                                    \
    X(ALLOC_FASTPATH, alloc_fastpath)                                                  \
    X(FREE_FASTPATH, free_fastpath)                                                    \
    X(ALLOC_SLOWPATH, alloc_slowpath)                                                  \
    X(FREE_SLOWPATH, free_slowpath)                                                    \
    X(FREE_FROZEN, free_frozen)                                                        \
    X(FREE_ADD_PARTIAL, free_add_partial)                                              \
    X(FREE_REMOVE_PARTIAL, free_remove_partial)                                        \
    X(ALLOC_FROM_PARTIAL, alloc_from_partial)                                          \
    X(ALLOC_SLAB, alloc_slab)                                                          \
    X(ALLOC_REFILL, alloc_refill)                                                      \
    X(ALLOC_NODE_MISMATCH, alloc_node_mismatch)                                        \
    X(FREE_SLAB, free_slab)                                                            \
    X(CPUSLAB_FLUSH, cpuslab_flush)                                                    \
    X(DEACTIVATE_FULL, deactivate_full)                                                \
    X(DEACTIVATE_EMPTY, deactivate_empty)                                              \
    X(DEACTIVATE_TO_HEAD, deactivate_to_head)                                          \
    X(DEACTIVATE_TO_TAIL, deactivate_to_tail)                                          \
    X(DEACTIVATE_REMOTE_FREES, deactivate_remote_frees)                                \
    X(DEACTIVATE_BYPASS, deactivate_bypass)                                            \
    X(ORDER_FALLBACK, order_fallback)                                                  \
    X(CMPXCHG_DOUBLE_CPU_FAIL, cmpxchg_double_cpu_fail)                                \
    X(CMPXCHG_DOUBLE_FAIL, cmpxchg_double_fail)                                        \
    X(CPU_PARTIAL_ALLOC, cpu_partial_alloc)                                            \
    X(CPU_PARTIAL_FREE, cpu_partial_free)                                              \
    X(CPU_PARTIAL_NODE, cpu_partial_node)                                              \
    X(CPU_PARTIAL_DRAIN, cpu_partial_drain)

enum us_stat {
#define US_X(item, name) US_STAT_##item,
    US_STATS(US_X)
#undef US_X
        US_STAT_ITEMS
};
US_API const char *us_stat_name(enum us_stat item);
/* One counter on one CPU. Exact while threads do not share the slot of a CPU. */
US_API uint64_t us_cache_counter(us_cache *cache, enum us_stat item, int cpu);
US_API void us_cache_counters_clear(us_cache *cache);

/* STRAY: waits for its node's list, whose lock could not be had. */
enum us_place {
    US_PLACE_CPU,
    US_PLACE_CHAIN,
    US_PLACE_NODE,
    US_PLACE_FULL,
    US_PLACE_STRAY,
};
struct us_slab_info {
    uint32_t page, slab, node, order, objects, inuse;
    bool frozen, pfmemalloc;
    enum us_place place;
    uint32_t place_index;       /* CPU or node */
    uint32_t free_count;        /* length of free_index */
    const uint16_t *free_index; /* the slab's own freelist, head first */
};
/*
 * A look at one cache, taken once and then private. The cache should be at rest: a
 * picture taken while others work is bounded and safe but may not add up.
 */
typedef struct us_picture us_picture;
US_API us_err us_picture_take(us_cache *cache, us_picture **ret);
US_API void us_picture_free(us_picture *picture);
/* Slabs in order of creation; false when `i` is past the last. */
US_API bool us_picture_slab(const us_picture *picture, uint32_t i,
                            struct us_slab_info *ret);
/* CPU slab (creation number, or -1), its freelist (object indexes), its chain
 * (numbers). */
US_API int64_t us_picture_cpu(const us_picture *picture, uint32_t cpu,
                              const uint16_t **freelist, uint32_t *freelist_count,
                              const uint32_t **chain, uint32_t *chain_count);
US_API void us_picture_node(const us_picture *picture, uint32_t node,
                            const uint32_t **partial, uint32_t *partial_count,
                            uint64_t *slabs, uint64_t *objects);

struct us_pages_info {
    uint64_t pages, free_pages;
    uint32_t orders;
    uint32_t free[40]; /* free blocks of each order */
};
US_API us_err us_pages_stat(us_arena *arena, uint32_t node, struct us_pages_info *ret);

/*
 * Checks every invariant of one cache, or (cache NULL) of the whole arena, and repairs
 * nothing. Calls report() with one sentence per finding; returns how many there were.
 */
US_API uint64_t us_validate(us_arena *arena, us_cache *cache,
                            void (*report)(const char *finding, void *), void *arg);

#ifdef __cplusplus
}
#endif
#endif
