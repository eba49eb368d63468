/* SPDX-License-Identifier: MIT */
/*
 * registry.c - arena.cache() and arena.caches(): from names to Cache objects.
 *
 * A Cache is a thin hand on the engine's handle: two of them for one cache are equal,
 * not identical. The engine keeps its handles until the arena is detached.
 */
#include "binding.h"

static void cache_remember(struct cache *self);

PyObject *cache_wrap(struct arena *arena, us_cache *engine, PyObject *name,
                     uint64_t object_size)
{
    struct us_cache_info info;
    us_err code = us_cache_stat(engine, &info);
    struct cache *self;

    if (code != US_OK) {
        return raise_engine(arena->state, code);
    }
    name = name == NULL ? PyUnicode_DecodeUTF8(info.name, (Py_ssize_t)strlen(info.name),
                                               "replace")
                        : Py_NewRef(name);
    self =
        name == NULL ? NULL : PyObject_GC_New(struct cache, arena->state->cache_type);
    if (self == NULL) {
        Py_XDECREF(name);
        return NULL;
    }
    self->engine = engine;
    self->arena = (struct arena *)Py_NewRef((PyObject *)arena);
    self->state = arena->state;
    self->object_size =
        (Py_ssize_t)(object_size != 0 ? object_size : info.geometry.object_size);
    self->destroyed = 0;
    /* Only an anonymous arena can have a callable; an image does no harm here. */
    self->calls_python = info.has_ctor && arena->birth.name[0] == '\0';
    self->geometry = info.geometry;
    self->flags = info.flags;
    self->name = name;
    self->weakrefs = NULL;
    self->spares.count = 0;
    PyObject_GC_Track((PyObject *)self);
    cache_remember(self);
    return (PyObject *)self;
}

/* ---- Caches by their engine handles, while they live ---- */

#ifdef Py_GIL_DISABLED

static void cache_remember(struct cache *self)
{
    (void)self;
}

void cache_forget(struct cache *self)
{
    (void)self;
}

struct cache *cache_recent(struct arena *arena, us_cache *engine, PyObject *name,
                           Py_ssize_t object_size)
{
    (void)arena, (void)engine, (void)name, (void)object_size;
    return NULL;
}

#else

static struct cache **place_of(struct arena *arena, us_cache *engine)
{
    return &arena->recent[((uintptr_t)engine >> 6) % RECENT_CACHES];
}

static void cache_remember(struct cache *self)
{
    struct cache **place = place_of(self->arena, self->engine);

    if (*place == NULL) {
        *place = self;
    }
}

void cache_forget(struct cache *self)
{
    struct cache **place = place_of(self->arena, self->engine);

    if (*place == self) {
        *place = NULL;
    }
}

struct cache *cache_recent(struct arena *arena, us_cache *engine, PyObject *name,
                           Py_ssize_t object_size)
{
    struct cache *found = *place_of(arena, engine);

    if (found == NULL || found->engine != engine || found->object_size != object_size ||
        PyUnicode_Compare(found->name, name) != 0) {
        return NULL;
    }
    return (struct cache *)Py_NewRef((PyObject *)found);
}

#endif

enum {
    NAME,
    OBJECT_SIZE,
    ALIGN,
    FLAGS,
    CTOR,
    ORDER,
    MIN_PARTIAL,
    CPU_PARTIAL,
    USEROFFSET,
    USERSIZE,
    DEFRAG_RATIO,
    PARAMETERS
};
static const struct parameters cache_parameters = {
    "cache",
    2,
    1,
    {"name", "object_size", "align", "flags", "ctor", "order", "min_partial",
     "cpu_partial", "useroffset", "usersize", "defrag_ratio"},
};

#define KNOWN_FLAGS                                                                    \
    (US_HWCACHE_ALIGN | US_RECLAIM_ACCOUNT | US_CACHE_DMA | US_CACHE_DMA32 |           \
     US_ACCOUNT | US_NO_MERGE | US_MERGE | US_NO_CPU_PARTIAL | US_FREELIST_HARDENED |  \
     US_FREELIST_RANDOM | US_TYPESAFE_BY_RCU | US_CONSISTENCY_CHECKS | US_RED_ZONE |   \
     US_POISON | US_STORE_USER | US_KMALLOC)

bool convert_flags(struct state *state, PyObject *value, uint32_t *ret)
{
    int64_t flags = 0;

    if (!convert_int(state, value, "flags", 0, UINT32_MAX, &flags)) {
        return false;
    }
    if ((flags & ~(int64_t)KNOWN_FLAGS) != 0) {
        raise_text(state, US_EBADARG,
                   "flags has bits 0x%x that mean nothing: see uslub.Flags",
                   (unsigned)(flags & ~(int64_t)KNOWN_FLAGS));
        return false;
    }
    *ret = (uint32_t)flags;
    return true;
}

static bool read_config(struct arena *arena, PyObject *const *values,
                        struct us_cache_config *config, Py_buffer *view)
{
    struct state *state = arena->state;
    int64_t align = 0, order = -1, min_partial = -1, cpu_partial = -1;
    int64_t useroffset = 0, usersize = 0, defrag_ratio = -1;

    if (!convert_size_positive(state, values[OBJECT_SIZE], "object_size",
                               &config->object_size) ||
        !convert_int(state, values[ALIGN], "align", 0, UINT32_MAX, &align) ||
        !convert_flags(state, values[FLAGS], &config->flags) ||
        !convert_int(state, values[ORDER], "order", 0, INT32_MAX, &order) ||
        !convert_int(state, values[MIN_PARTIAL], "min_partial", 0, INT32_MAX,
                     &min_partial) ||
        !convert_int(state, values[CPU_PARTIAL], "cpu_partial", 0, INT32_MAX,
                     &cpu_partial) ||
        !convert_int(state, values[USEROFFSET], "useroffset", 0, INT32_MAX,
                     &useroffset) ||
        !convert_int(state, values[USERSIZE], "usersize", 0, INT32_MAX, &usersize) ||
        !convert_int(state, values[DEFRAG_RATIO], "defrag_ratio", 0, 1024,
                     &defrag_ratio)) {
        return false;
    }
    config->align = (uint32_t)align;
    config->order = (int32_t)order;
    config->min_partial = (int32_t)min_partial;
    config->cpu_partial = (int32_t)cpu_partial;
    config->useroffset = (int32_t)useroffset;
    config->usersize = (int32_t)usersize;
    config->defrag_ratio = (int32_t)defrag_ratio;
    return constructor_from(arena, values[CTOR], config->object_size, config, view);
}

/* The name alone: nothing else may have been said. */
static bool only_name(struct arena *arena, PyObject *const *values)
{
    for (int i = ALIGN; i < PARAMETERS; i++) {
        if (values[i] != NULL && values[i] != Py_None) {
            PyErr_Format(PyExc_TypeError,
                         "cache() got '%s' without object_size: the name alone finds a "
                         "cache, everything together makes one",
                         cache_parameters.names[i]);
            return false;
        }
    }
    return arena_enter(arena);
}

static PyObject *find(struct arena *arena, PyObject *const *values, const char *name)
{
    us_cache *engine;
    PyObject *cache;
    us_err code;

    if (!only_name(arena, values)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS code = us_cache_find(arena->engine, name, &engine);
    Py_END_ALLOW_THREADS cache = code != US_OK
                                     ? raise_engine(arena->state, code)
                                     : cache_wrap(arena, engine, values[NAME], 0);
    arena_leave(arena);
    return cache;
}

PyObject *arena_cache(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    struct arena *self = (struct arena *)op;
    struct us_cache_config config = US_CACHE_CONFIG_INIT;
    PyObject *values[PARAMETERS], *cache = NULL;
    Py_buffer view = {0};
    us_cache *engine;
    const char *name;
    us_err code;

    if (!parse_arguments(&cache_parameters, args, nargs, kwnames, values) ||
        (name = convert_name(self->state, values[NAME], "cache name")) == NULL) {
        return NULL;
    }
    if (values[OBJECT_SIZE] == NULL || values[OBJECT_SIZE] == Py_None) {
        return find(self, values, name);
    }
    if (!arena_enter(self)) {
        return NULL;
    }
    if (read_config(self, values, &config, &view)) {
        Py_BEGIN_ALLOW_THREADS code =
            us_cache_create(self->engine, name, &config, &engine);
        Py_END_ALLOW_THREADS cache =
            code != US_OK ? raise_engine(self->state, code)
                          : cache_wrap(self, engine, values[NAME], config.object_size);
    }
    if (view.obj != NULL) {
        PyBuffer_Release(&view);
    }
    arena_leave(self);
    return cache;
}

/* ---- all of them ---- */

struct found {
    us_cache **caches;
    size_t count, room;
    bool failed;
};

static bool remember(us_cache *cache, void *arg)
{
    struct found *found = arg;

    if (found->count == found->room) {
        size_t room = found->room == 0 ? 64 : 2 * found->room;
        us_cache **larger = PyMem_RawRealloc(found->caches, room * sizeof(us_cache *));

        if (larger == NULL) {
            found->failed = true;
            return false;
        }
        found->caches = larger;
        found->room = room;
    }
    found->caches[found->count++] = cache;
    return true;
}

PyObject *arena_caches(PyObject *op, PyObject *unused)
{
    struct arena *self = (struct arena *)op;
    struct found found = {0};
    PyObject *list = NULL;
    us_err code;

    (void)unused;
    if (!arena_enter(self)) {
        return NULL;
    }
    code = us_cache_each(self->engine, remember, &found);
    if (code != US_OK) {
        raise_engine(self->state, code);
    } else if (found.failed) {
        PyErr_NoMemory();
    } else {
        list = PyList_New(0);
    }
    for (size_t i = 0; list != NULL && i < found.count; i++) {
        PyObject *cache = cache_wrap(self, found.caches[i], NULL, 0);

        if (cache == NULL && PyErr_ExceptionMatches(self->state->errors[US_ENOCACHE])) {
            PyErr_Clear(); /* destroyed since */
        } else if (cache == NULL || PyList_Append(list, cache) != 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(cache);
    }
    PyMem_RawFree(found.caches);
    arena_leave(self);
    return list;
}
