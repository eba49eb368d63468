/* SPDX-License-Identifier: MIT */
/*
 * layout.h - every struct that lives in shared memory, and where in the file it lives.
 *
 * Nothing here is a pointer: an object is named by its offset from the start of the
 * arena, a page by its number from the same place (page 0 is the header, so 0 means
 * "none"), a cache by its id (from 1). No other file may define a shared struct. Change
 * anything and US_LAYOUT_VERSION must change: arenas of another version are refused.
 *
 *   header | processes | node page allocators | free-block bitmaps | commit bitmap |
 * buckets threads | names | caches | outboxes | channels | page descriptors | owner
 * tags (10 planes) | pages for objects | holders (10 planes)
 *
 * The first line is committed at creation; the rest on demand, page by page (commit.c).
 */
#ifndef US_ARENA_LAYOUT_H
#define US_ARENA_LAYOUT_H

#include <stddef.h>

#include "base/atomic.h"
#include "base/check.h"
#include "uslub/uslub.h"

#define US_MAGIC 0x31626c75736cf09fULL /* bytes f0, then "slub1" in order of size */
#define US_LAYOUT_VERSION 3u

#define US_PAGE_SHIFT 12
#define US_PAGE_SIZE  (1u << US_PAGE_SHIFT)
#define US_CPUS_MAX   512
#define US_NODES_MAX  16
#define US_ORDERS     33 /* orders 0..32: a block of 2^32 pages is 16 TiB */
#define US_PROCESSES  64 /* a bit each in a word of holders */
#define US_THREADS    4096
#define US_DATA_ALIGN (2u << 20)

/* Largest offset that fits a slab word. */
#define US_OFFSET_BITS 44
#define US_OFFSET_MASK ((1ULL << US_OFFSET_BITS) - 1)

#define US_OBJECTS_MAX 32767 /* MAX_OBJS_PER_PAGE: 15 bits */

/* Facts about an arena that never change; checked at attach, then copied. */
struct us_config {
    uint64_t node_pages;    /* pages for objects, per node */
    uint64_t reserve_pages; /* of those, only for US_GFP_EMERGENCY */
    uint64_t keep_pages;    /* free pages that may stay committed, whole arena */
    uint64_t created_ns;
    uint8_t id[16];
    uint32_t cpus;
    uint32_t nodes;
    uint32_t order_cpus; /* what calculate_order() takes for the number of CPUs */
    uint32_t caches_max;
    uint32_t anonymous; /* 1: on a memfd */
    uint32_t pad;
    uint8_t cpu_node[US_CPUS_MAX];
    uint8_t distance[US_NODES_MAX][US_NODES_MAX];
};

struct us_header {
    uint64_t magic;
    uint32_t version;
    uint32_t page_size;
    struct us_config config;
    uint64_t checksum; /* of everything above */

    /* Below: written while the arena is used. */
    uint32_t poisoned;   /* not 0: corruption was seen that nothing explains */
    uint32_t cache_lock; /* slab_mutex: guards names, the list of caches, their life */
    uint32_t cache_head; /* oldest cache, by id; cache_lock */
    uint32_t cache_tail;
    uint32_t cache_count;
    uint32_t cache_high; /* ids 1..cache_high were used at some time; cache_lock */
    uint32_t name_high;
    uint32_t thread_high; /* thread slots 0..thread_high-1 were used at some time */
    uint64_t births;      /* caches ever created */
    uint64_t kept_pages;  /* free pages that are committed; a hint */
    uint32_t no_fence; /* a participant has no membarrier: free pages stay committed */
    uint32_t pages_suspect; /* page counters and index are to be made anew */
    /* What recovery has done since creation; for people. */
    uint32_t reaped;         /* dead participants that were settled */
    uint32_t reaped_threads; /* threads that ended inside a call, likewise */
    uint32_t reaped_inside;  /* of both: were inside the allocator */
    uint32_t poisoned_objects, poisoned_slabs;
    uint32_t pad32;
    uint64_t reaped_objects; /* freed */
    uint64_t mended_caches, mended_slabs, mended_blocks;
    uint64_t reap_last_ns, reap_max_ns,
        reap_total_ns;     /* of reaps that found something */
    uint64_t reap_last_at; /* CLOCK_REALTIME, ns */
};

enum us_process_state { US_PROCESS_FREE, US_PROCESS_STARTING, US_PROCESS_LIVE };

/* A participant. Alive as long as it holds the record lock on byte US_LOCK_BASE + slot.
 */
struct us_process {
    uint32_t state; /* enum us_process_state */
    int32_t pid;    /* for people, never for decisions */
    uint64_t start_time;
    uint64_t pid_namespace;
    uint64_t pad0;
    uint32_t generation; /* how often the slot was taken */
    uint32_t pad;
    uint64_t noticed_ns; /* CLOCK_BOOTTIME when somebody saw that it is dead; else 0 */
    uint64_t pad64[2];
};
#define US_LOCK_BASE (1ULL << 62)

/* What a thread is in the middle of; the low bits hold an offset. */
enum us_operation {
    US_OP_NONE,
    US_OP_ALLOC, /* offset: the object about to be popped */
    US_OP_FREE,  /* offset: the object about to be pushed */
    US_OP_ALLOC_SLOW,
    US_OP_ALLOC_BULK, /* offset: first object of a chain within one slab */
    US_OP_FREE_BULK,
    US_OP_FLUSH,
    US_OP_SHRINK,
    US_OP_PAGES, /* an object straight from the page allocator */
    US_OP_CACHE, /* cache: being created or destroyed */
    US_OP_MEND,  /* cache: being rebuilt by a reaper */
    US_OP_ADOPT,
    /* Of shared objects; offset: the object. Recovery counts its transits again. */
    US_OP_SHARE,
    US_OP_SEND,
    US_OP_TAKE,
    US_OP_DROP,
};
#define US_OP_SHIFT 56

/* In us_thread.state: it ended in the middle of a call; recovery is owed. */
#define US_THREAD_DEAD 0x80000000u

/* One thread of one participant; written by that thread only. */
struct us_thread {
    uint32_t state; /* 0: free; else process slot + 1, and perhaps US_THREAD_DEAD */
    uint32_t tid;
    uint64_t intent;   /* enum us_operation << US_OP_SHIFT | offset; 0: at rest */
    uint32_t cache;    /* id concerned */
    uint32_t cpu;      /* CPU slot concerned */
    uint32_t locks;    /* how many it holds, or is about to take */
    uint32_t changing; /* not 0: in the middle of a change of pages */
    uint64_t pad[12];
};

enum us_block_state {
    US_BLOCK_TAIL, /* inside a larger block; also what never-touched memory says */
    US_BLOCK_FREE,
    US_BLOCK_SPLIT, /* being split by `owner` */
    US_BLOCK_MERGE, /* being merged by `owner` */
    US_BLOCK_ALLOC, /* belongs to `owner` until published as something else */
    US_BLOCK_SLAB,  /* a slab of a cache */
    US_BLOCK_LARGE, /* one object straight from the page allocator */
    US_BLOCK_META,  /* image or shuffle table of a cache */
};

/*
 * One page. Meaningful at the first page of a block, all zero (TAIL) elsewhere.
 * `word` is truth; `slab` is a cache that can be rebuilt from the owner tags.
 */
struct us_page {
    uint64_t word;        /* state:4 order:6 owner:16 version:38, see page_word.h */
    uint32_t cache;       /* id; constant while SLAB */
    uint32_t serial;      /* creation number in its cache */
    struct us_pair slab;  /* see slab_word.h */
    uint32_t next, prev;  /* node partial list; list_lock */
    uint32_t chain_next;  /* CPU partial chain; lock of the CPU slot */
    uint32_t chain_count; /* slabs from here to the end of the chain */
    uint16_t cache_gen;   /* generation of the cache */
    uint16_t flags;       /* US_PAGE_* */
    uint32_t pad;
    uint64_t requested; /* LARGE: bytes asked for */
};
#define US_PAGE_PFMEMALLOC 1u
#define US_PAGE_PARTIAL    2u /* on its node's partial list; list_lock */

/* Page allocator of one node. */
struct us_node_pages {
    uint64_t changes;         /* ended:32 under way:32, see pages.c */
    uint64_t free_pages;      /* pages in free blocks */
    uint64_t ended;           /* allocations and frees of blocks */
    uint64_t hint[US_ORDERS]; /* no set bit in words below; may be wrong, see pages.c */
};

/* A name of a cache: its own, or one merged into it. */
struct us_name {
    char name[US_NAME_MAX + 1];
    uint32_t cache;       /* id; 0: this entry is free */
    uint32_t hash_next;   /* entry + 1 */
    uint64_t object_size; /* as asked for under this name ... */
    uint32_t align, flags;
    int32_t order, min_partial, cpu_partial, useroffset, usersize, defrag_ratio;
    uint64_t image_hash; /* of the initial image, 0 without one */
    uint64_t birth;
};

enum us_cache_state { US_CACHE_FREE, US_CACHE_LIVE, US_CACHE_DYING };

/* kmem_cache. Followed by its kmem_cache_cpu's and kmem_cache_node's. */
struct us_kmem_cache {
    uint32_t state;      /* enum us_cache_state; cache_lock */
    uint32_t generation; /* of the id; 16 bits are in every tid and slab */
    uint32_t next, prev; /* list of caches, oldest first; cache_lock */
    uint32_t name;       /* entry of its own name */
    int32_t refcount;    /* names that lead here */
    uint32_t flags;
    uint32_t align;
    uint64_t object_size, size;
    uint32_t offset, inuse;
    uint32_t order, objects, min_order, min_objects;
    uint32_t min_partial, cpu_partial, cpu_partial_slabs; /* tunable: atomic */
    uint32_t defrag_ratio;
    int32_t useroffset, usersize;
    uint32_t serials;  /* slabs ever created; atomic */
    uint32_t has_ctor; /* 1: image, 2: function of the creator */
    uint64_t random;   /* secret of hardened links */
    uint64_t image;    /* offset of the initial image, or 0 */
    uint64_t shuffle;  /* offset of the shuffled indexes, or 0 */
    uint64_t birth;    /* place in the order of creation */
    uint32_t suspect;  /* a repair is owed */
    uint32_t pad32;
    uint64_t pad[6];
};

/* kmem_cache_cpu */
struct us_kmem_cache_cpu {
    struct us_pair freelist; /* lo: first free object (offset), hi: tid */
    uint64_t active;         /* the CPU slab: node:12 page:36 objects:16, or 0 */
    uint32_t partial;        /* chain, by first page; `lock` */
    uint32_t lock;           /* local lock of the slow paths */
    uint64_t stat[US_STAT_ITEMS];
    uint64_t pad[2];
};

/* kmem_cache_node */
struct us_kmem_cache_node {
    uint32_t list_lock;  /* guards the four below and the links of listed slabs */
    uint32_t head, tail; /* partial list, by first page */
    uint32_t nr_partial;
    uint64_t nr_slabs;      /* atomic */
    uint64_t total_objects; /* atomic */
    uint32_t strays;        /* slabs marked US_MARK_STRAY may exist */
    uint32_t stray;         /* one of them, perhaps with a free object; a hint */
    uint64_t pad[3];
};

US_STATIC(sizeof(struct us_header) <= US_PAGE_SIZE);
US_STATIC(sizeof(struct us_process) == 64);
US_STATIC(sizeof(struct us_thread) == 128);
US_STATIC(sizeof(struct us_page) == 64);
US_STATIC(offsetof(struct us_page, slab) % 16 == 0);
US_STATIC(sizeof(struct us_name) == 128);
US_STATIC(sizeof(struct us_kmem_cache) == 192);
US_STATIC(sizeof(struct us_kmem_cache_cpu) == 256);
US_STATIC(offsetof(struct us_kmem_cache_cpu, stat) == 32);
US_STATIC(sizeof(struct us_kmem_cache_node) == 64);
US_STATIC(sizeof(struct us_node_pages) <= 512);
US_STATIC(US_PROCESSES < 0x2000); /* the bits above say more, see below */

/* Owner tags: one u16 per object. 0: free, else process slot + 1. */
#define US_TAG_FREEING 0x8000u /* its owner is in the middle of a bulk free */
#define US_TAG_MOVING  0x4000u /* its owner has let go of it for us_adopt() */
#define US_TAG_SHARED                                                                  \
    0x2000u /* all of the tag: the word of holders says whose it is                    \
             */
#define US_TAG_OWNER  0x1fffu
#define US_TAG_POISON 0xffffu /* quarantined: contradicts itself */
#define US_TAG_PLANES 10
/*
 * Plane k has one tag per 8 << k bytes; a cache uses the coarsest that still gives each
 * of its objects a tag of its own, found from the object's address alone. Planes are
 * sparse.
 */
#define US_TAG_GRANULE(plane) (8u << (plane))
#define US_TAG_STRIDE(plane)                                                           \
    (2u * US_PAGE_SIZE / US_TAG_GRANULE(plane)) /* bytes per page */

/*
 * Holders: a pair per object, found like its tag; it means something only while the tag
 * is US_TAG_SHARED. lo: a bit per process slot. hi: version:28 incarnation:19 channel:1
 * transits:16, see cache/hold.h. Planes are as sparse as those of the tags.
 */
#define US_HOLDERS_STRIDE(plane) ((uint64_t)16 * US_PAGE_SIZE / US_TAG_GRANULE(plane))

/*
 * A handle of a shared object on its way through a pipe: it counts as one transit as
 * long as it stands here. Made by the process whose outbox it is, ended by whoever
 * receives it, or by the reaper. lo: offset of the object, 0: free; hi: serial number.
 */
#define US_OUTBOX 16384

/* Offsets of channels, 0: none; so that recovery can count what is in them. */
#define US_CHANNELS 1024

#define US_CHANNEL_MAGIC   0x6c656e6e61686375ULL /* "uchannel" */
#define US_CHANNEL_FORMATS 64
#define US_FORMAT_MAX      120

/* What the bytes of a message are, for those who asked: interned by its text. */
struct us_format {
    uint32_t state;  /* 0: free, 1: being written, 2: complete */
    uint32_t length; /* of text */
    char text[US_FORMAT_MAX];
};

/*
 * A bounded queue, itself an object of kmalloc. The cell of turn n is n % capacity:
 * free or full for exactly one turn at a time; see share/channel.c.
 */
struct us_channel_block {
    uint64_t magic;
    uint32_t capacity;
    uint32_t closed;
    uint64_t pad0[6];
    uint64_t tail;     /* next turn to be sent; behind a cell only for an instant */
    uint32_t readable; /* futex: events << 1 | somebody waits */
    uint32_t pad1[13];
    uint64_t head; /* next turn to be received */
    uint32_t writable;
    uint32_t pad2[13];
    struct us_format formats[US_CHANNEL_FORMATS];
    struct us_pair cells[]; /* lo: object:44 format:8; hi: turn:40 full:1 nbytes:23 */
};
US_STATIC(sizeof(struct us_format) == 128);
US_STATIC(offsetof(struct us_channel_block, tail) == 64);
US_STATIC(offsetof(struct us_channel_block, head) == 128);
US_STATIC(sizeof(struct us_channel_block) == 192 + US_CHANNEL_FORMATS * 128);

/*
 * Colours: what one operation touches must not lie at the same offset in its pages.
 * AMD's level 1 cache predicts its way from a hash of address bits 12 to 27; two lines
 * of one set with equal hashes evict each other at every access, in some processes and
 * not in others (docs/design/01-arena.md).
 */
#define US_THREADS_COLOUR 832u
#define US_TAGS_COLOUR    320u
#define US_SELF_COLOUR    576u

/* Where everything is; computed from the config, the same in every process. */
struct us_layout {
    uint64_t processes, node_pages, buckets;
    uint64_t bitmap[US_NODES_MAX][US_ORDERS]; /* free blocks, one bit each */
    uint64_t commit_map;                      /* one bit per page of the file */
    uint64_t prefix_end;                      /* committed at creation up to here */
    uint64_t threads, names, caches, outboxes, channels, pages;
    uint64_t tags[US_TAG_PLANES];
    uint64_t data;
    uint64_t holders[US_TAG_PLANES];
    uint64_t end;
    uint64_t data_pages;   /* all nodes */
    uint32_t first_page;   /* number of the first page for objects */
    uint32_t cache_stride; /* kmem_cache with its cpus and nodes */
    uint32_t bucket_mask;
    uint32_t orders; /* orders 0..orders-1 exist */
};

/* False if the config makes no sense or the arena would not fit the words. */
bool us_layout_compute(const struct us_config *config, struct us_layout *ret);
uint64_t us_header_checksum(const struct us_header *header);

#endif
