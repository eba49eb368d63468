/* SPDX-License-Identifier: MIT */
/*
 * binding.h - what the files of the binding share.
 *
 * Who keeps whom alive: Object -> Cache -> Arena -> mapping. An Object of kmalloc
 * points at its Arena directly. Arena.holds counts who needs the mapping: the open
 * arena itself, every live Object, every call that is inside the engine. At zero the
 * arena is detached, so close() never pulls memory from under a view.
 *
 * Nothing here is global to the process: module state is one per interpreter. Structs
 * are only touched with the GIL held or, on free-threaded builds, through the few words
 * that sync.h makes atomic.
 */
#ifndef USLUB_BINDING_H
#define USLUB_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "uslub/uslub.h"
#include "sync.h"

#define LIKELY(x)   __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define COLD        __attribute__((cold, noinline))

/* Classes of uslub.errors that the binding raises without the engine's help. */
enum own_error { OWN_IN_USE, OWN_FREED, OWN_ERRORS };

struct state {
    PyTypeObject *arena_type, *cache_type, *object_type, *channel_type;
    PyObject *errors[US_ESYSTEM + 1]; /* by us_err; [US_OK] is uslub.Error itself */
    PyObject *own_errors[OWN_ERRORS];
    PyObject *flags_type; /* uslub.Flags */
    PyObject *handle_type;
    PyObject *empty_text;
    PyObject *stdlib;                  /* sys.stdlib_module_names */
    uint8_t stat_order[US_STAT_ITEMS]; /* items in the order of uslub.snapshot.STATS */
    /* Classes of uslub.info. */
    PyObject *arena_info, *cache_info, *geometry;
    PyObject *process_info, *thread_info, *health, *reaped;
};

/*
 * Objects to be used again by the one they belonged to, so that most of their fields
 * are right already. Each keeps its reference to its type and none to its owner.
 */
#define SPARES_MAX 128
struct spares {
    unsigned count;
    struct object *objects[SPARES_MAX];
};

#define RECENT_CACHES 16

struct constructor;

struct arena {
    PyObject ob_base;
    us_arena *engine;
    shared_count holds; /* see above; 0: detached */
    shared_flag closed;
    struct state *state;
    struct constructor *constructors; /* callables that the engine may call */
    struct us_arena_info birth;       /* what does not change */
    char id[33];                      /* birth.id in hex */
    PyObject *weakrefs;
    struct spares spares;                /* of kmalloc */
    struct cache *recent[RECENT_CACHES]; /* borrowed: they leave when they die */
};

struct cache {
    PyObject ob_base;
    us_cache *engine;
    struct arena *arena; /* strong */
    struct state *state;
    Py_ssize_t object_size;
    shared_flag destroyed; /* through this Cache */
    bool calls_python;     /* a callable constructor: keep the GIL */
    struct us_geometry geometry;
    uint32_t flags;
    PyObject *name;
    PyObject *weakrefs;
    struct spares spares;
};

/* What holds an object's memory: see object_word in sync.h for `word`. */
struct object {
    PyObject ob_base;
    void *data;          /* NULL: freed, moved, or never there */
    Py_ssize_t nbytes;   /* as asked for; in a cache always its object_size */
    struct cache *cache; /* strong; NULL: from kmalloc */
    struct arena *arena; /* strong if cache is NULL, else the cache's */
    object_word word;
    bool borrowed; /* memory under construction: it is not ours to free */
    PyObject *weakrefs;
};

/* ---- errors.c ---- */

bool errors_import(struct state *state);
/* Raise what the engine just said in this thread; return NULL (or -1). */
PyObject *raise_engine(struct state *state, us_err code);
PyObject *raise_text(struct state *state, us_err code, const char *format, ...);
PyObject *raise_own(struct state *state, enum own_error which, const char *format, ...);
PyObject *raise_closed(struct arena *arena);

/* ---- convert.c: from Python values; false (or -1) with an exception set ---- */

/* The parameters of a METH_FASTCALL | METH_KEYWORDS function. */
struct parameters {
    const char *function;
    int positional;        /* how many may be given by position ... */
    int required;          /* ... and how many must be given */
    const char *names[14]; /* ends with NULL */
};
/* Borrowed values into out[], in the order of names; NULL: not given. */
bool parse_arguments(const struct parameters *expected, PyObject *const *args,
                     Py_ssize_t nargs, PyObject *kwnames, PyObject **out);
/* A size as int or text. `what` names it in errors. NULL or None: *ret is left alone.
 */
bool convert_size(struct state *state, PyObject *value, const char *what,
                  uint64_t *ret);
/* The same, where 0 is no size. */
bool convert_size_positive(struct state *state, PyObject *value, const char *what,
                           uint64_t *ret);
/* None or NULL: *ret is left alone. Outside low..high: BadArgument. */
bool convert_int(struct state *state, PyObject *value, const char *what, int64_t low,
                 int64_t high, int64_t *ret);
bool convert_cpu(struct state *state, PyObject *value, const char *what, int *ret);
bool convert_bool(PyObject *value, bool *ret);
/* UTF-8 without NUL, or NULL; lives as long as `value`. */
const char *convert_name(struct state *state, PyObject *value, const char *what);

/* ---- arena.c ---- */

extern PyType_Spec arena_spec;
/* The last hold is gone: detaches. */
void arena_detach(struct arena *arena);

/* Takes part in `arena` for the time of one call; false: it is closed (ClosedArena). */
static inline bool arena_enter(struct arena *arena)
{
    if (UNLIKELY(flag_read(&arena->closed)) || UNLIKELY(!count_up(&arena->holds))) {
        raise_closed(arena);
        return false;
    }
    return true;
}

/* Ends what arena_enter() began, or what an Object held. */
static inline void arena_leave(struct arena *arena)
{
    if (UNLIKELY(count_down(&arena->holds))) {
        arena_detach(arena);
    }
}

/* ---- memory.c: kmalloc and its kin, methods of Arena ---- */

PyObject *arena_kmalloc(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames);
PyObject *arena_krealloc(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames);
PyObject *arena_adopt(PyObject *op, PyObject *value);
/* An Object around memory that this process holds; the caller's place in the arena
 * becomes the Object's. NULL: the memory is still the caller's. */
PyObject *object_around(struct arena *arena, void *data, Py_ssize_t nbytes);

/* ---- share.c, channel.c: between processes ---- */

extern PyType_Spec channel_spec;
PyObject *object_send(PyObject *op, PyObject *unused);
PyObject *object_reduce(PyObject *op, PyObject *unused);
PyObject *arena_receive(PyObject *op, PyObject *wire);
/* The bytes of a handle of the object at `data`. */
PyObject *wire_of(struct arena *arena, void *data, Py_ssize_t nbytes);
/* Checks a handle and takes it in; NULL with an exception. */
void *wire_receive(struct arena *arena, PyObject *wire, Py_ssize_t *nbytes);

/* ---- constructor.c ---- */

/* Fills in config->image or config->ctor from `value`. `view` is the caller's to
 * release. */
bool constructor_from(struct arena *arena, PyObject *value, uint64_t object_size,
                      struct us_cache_config *config, Py_buffer *view);
int constructors_traverse(struct arena *arena, visitproc visit, void *arg);
/* Drops the callables, for the cycle collector ... */
void constructors_forget(struct arena *arena);
/* ... and for good, when the arena is detached. */
void constructors_free(struct arena *arena);

/* ---- registry.c: from names to caches, methods of Arena ---- */

/* A new Cache for `engine`. name NULL: the cache's own; object_size 0: the cache's own.
 */
PyObject *cache_wrap(struct arena *arena, us_cache *engine, PyObject *name,
                     uint64_t object_size);
/* A Cache for `engine` of that name and size, if there is one and it is found. */
struct cache *cache_recent(struct arena *arena, us_cache *engine, PyObject *name,
                           Py_ssize_t object_size);
void cache_forget(struct cache *cache);
PyObject *arena_cache(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames);
PyObject *arena_caches(PyObject *op, PyObject *unused);
bool convert_flags(struct state *state, PyObject *value, uint32_t *ret);

/* ---- cache.c, bulk.c ---- */

extern PyType_Spec cache_spec;
/* The same for a cache, which may also have been destroyed. */
bool cache_enter(struct cache *cache);
/* zero, cpu, node, thisnode, emergency, as alloc() and alloc_bulk() take them. */
struct placement {
    uint32_t gfp;
    int cpu, node;
};
bool placement_from(struct state *state, PyObject *const values[5],
                    struct placement *ret);
PyObject *cache_alloc_bulk(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
PyObject *cache_free_bulk(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames);

/* ---- look.c: info, stats, snapshots; methods of Arena and Cache ---- */

PyObject *arena_info(PyObject *op, PyObject *unused);
PyObject *arena_stats(PyObject *op, PyObject *unused);
PyObject *arena_snapshot(PyObject *op, PyObject *unused);
PyObject *arena_validate(PyObject *op, PyObject *unused);
PyObject *cache_info(PyObject *op, PyObject *unused);
PyObject *cache_aliases(PyObject *op, void *unused);
PyObject *cache_stats(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames);
PyObject *cache_snapshot(PyObject *op, PyObject *unused);
PyObject *cache_validate(PyObject *op, PyObject *unused);
/* A record of uslub.info from a dictionary of its fields, which is stolen. */
PyObject *make_record(PyObject *type, PyObject *fields);
PyObject *geometry_record(struct state *state, const struct us_geometry *g);
/* Calls uslub.MODULE.FUNCTION(first, second); second may be NULL. Steals second. */
PyObject *call_helper(const char *module, const char *function, PyObject *first,
                      PyObject *second);
PyObject *call_method(const char *module, const char *function, PyObject *self,
                      PyObject *args, PyObject *kwargs);

/* ---- health.c: methods of Arena, and a look from outside ---- */

PyObject *arena_processes(PyObject *op, PyObject *unused);
PyObject *arena_threads(PyObject *op, PyObject *unused);
PyObject *arena_health(PyObject *op, PyObject *unused);
PyObject *arena_reap(PyObject *op, PyObject *unused);
PyObject *module_examine(PyObject *module, PyObject *name);

/* ---- stream.c ---- */

PyObject *module_gather(PyObject *module, PyObject *args);

/* ---- object.c, probe.c ---- */

extern PyType_Spec object_spec, probe_spec;
/* A new Object around memory that is ours: of `cache`, or (NULL) a kmalloc buffer. The
 * caller is inside the arena (arena_enter), and that place becomes the Object's. NULL:
 * the memory is still the caller's. */
PyObject *object_new(struct cache *cache, struct arena *arena, void *data,
                     Py_ssize_t nbytes);
/* For those who own spares: traverse, and the end. */
int spares_traverse(struct spares *spares, visitproc visit, void *arg);
void spares_drop(struct spares *spares);
/*
 * Before memory goes away on purpose: claims the object for its end if nothing else can
 * see it. `action` is the name of the method called; `containers`: see
 * references_explained().
 */
bool object_claim(struct object *self, const char *action, PyObject *const *containers);
void object_unclaim(struct object *self);
/* The memory is somebody else's now (freed or moved): the Object is empty. */
void object_empty(struct object *self);
PyObject *raise_gone(struct object *self);

/* ---- attributes.c: what an Object knows about itself ---- */

extern PyGetSetDef object_getset[];
PyObject *object_repr(PyObject *op);

/* ---- references.c ---- */

/*
 * Is every reference to `object` a variable, a place in a container, or the call of the
 * method `action` itself? 1: yes; 0: no, and *ret are left over; -1: an exception.
 * `containers` (ends with NULL, or is NULL) are known to the caller.
 */
int references_explained(PyObject *object, const char *action,
                         PyObject *const *containers, Py_ssize_t *ret);

#endif
