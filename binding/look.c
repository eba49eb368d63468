/* SPDX-License-Identifier: MIT */
/*
 * look.c - info(), stats(), validate() and snapshot() of arenas and caches.
 *
 * Facts become records of uslub.info here; pictures become plain tuples, out of which
 * uslub._look builds the records of uslub.snapshot. Nothing here changes an arena.
 */
#include "binding.h"

PyObject *call_helper(const char *module, const char *function, PyObject *first,
                      PyObject *second)
{
    PyObject *imported = PyImport_ImportModule(module), *callable, *result = NULL;

    callable = imported == NULL ? NULL : PyObject_GetAttrString(imported, function);
    if (callable != NULL) {
        result = PyObject_CallFunctionObjArgs(callable, first, second, NULL);
    }
    Py_XDECREF(callable);
    Py_XDECREF(imported);
    Py_XDECREF(second);
    return result;
}

/* A method written in Python: module.function(self, *args, **kwargs). */
PyObject *call_method(const char *module, const char *function, PyObject *self,
                      PyObject *args, PyObject *kwargs)
{
    PyObject *imported = PyImport_ImportModule(module), *callable, *all = NULL;
    PyObject *result = NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(args);

    callable = imported == NULL ? NULL : PyObject_GetAttrString(imported, function);
    all = callable == NULL ? NULL : PyTuple_New(count + 1);
    if (all != NULL) {
        PyTuple_SET_ITEM(all, 0, Py_NewRef(self));
        for (Py_ssize_t i = 0; i < count; i++) {
            PyTuple_SET_ITEM(all, i + 1, Py_NewRef(PyTuple_GET_ITEM(args, i)));
        }
        result = PyObject_Call(callable, all, kwargs);
    }
    Py_XDECREF(all);
    Py_XDECREF(callable);
    Py_XDECREF(imported);
    return result;
}

/* A record of uslub.info from a dictionary of its fields, which is stolen. */
PyObject *make_record(PyObject *type, PyObject *fields)
{
    PyObject *nothing = fields == NULL ? NULL : PyTuple_New(0);
    PyObject *record = nothing == NULL ? NULL : PyObject_Call(type, nothing, fields);

    Py_XDECREF(nothing);
    Py_XDECREF(fields);
    return record;
}

typedef unsigned long long ull;

/* ---- arenas ---- */

PyObject *arena_info(PyObject *op, PyObject *unused)
{
    struct arena *self = (struct arena *)op;
    struct us_arena_info info;
    us_err code;

    (void)unused;
    if (!arena_enter(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS code = us_arena_stat(self->engine, &info);
    Py_END_ALLOW_THREADS arena_leave(self);
    if (code != US_OK) {
        return raise_engine(self->state, code);
    }
    return make_record(
        self->state->arena_info,
        Py_BuildValue("{sssssIsIsIsIsKsKsKsKsKsKsKsKsIsIsI}", "name", info.name, "id",
                      self->id, "layout_version", info.layout_version, "page_size",
                      info.page_size, "cpus", info.cpus, "nodes", info.nodes, "size",
                      (ull)info.size, "file_size", (ull)info.file_size, "data_offset",
                      (ull)info.data_offset, "committed", (ull)info.committed,
                      "free_pages", (ull)info.free_pages, "reserve_pages",
                      (ull)info.reserve_pages, "keep", (ull)info.keep, "created_ns",
                      (ull)info.created_ns, "caches", info.caches, "processes",
                      info.processes, "processes_dead", info.processes_dead));
}

PyObject *arena_stats(PyObject *op, PyObject *unused)
{
    (void)unused;
    return call_helper("uslub._look", "arena_stats", op, NULL);
}

/* (pages, (free blocks of order 0, 1, ...)) of one node. */
static PyObject *node_pages(struct arena *self, uint32_t node)
{
    struct us_pages_info info;
    us_err code = us_pages_stat(self->engine, node, &info);
    PyObject *free_blocks;

    if (code != US_OK) {
        return raise_engine(self->state, code);
    }
    free_blocks = PyTuple_New(info.orders);
    for (uint32_t order = 0; free_blocks != NULL && order < info.orders; order++) {
        PyObject *count = PyLong_FromUnsignedLong(info.free[order]);

        if (count == NULL) {
            Py_CLEAR(free_blocks);
            break;
        }
        PyTuple_SET_ITEM(free_blocks, order, count);
    }
    return free_blocks == NULL ? NULL
                               : Py_BuildValue("KN", (ull)info.pages, free_blocks);
}

PyObject *arena_snapshot(PyObject *op, PyObject *unused)
{
    struct arena *self = (struct arena *)op;
    PyObject *nodes;

    (void)unused;
    if (!arena_enter(self)) {
        return NULL;
    }
    nodes = PyList_New(0);
    for (uint32_t node = 0; nodes != NULL && node < self->birth.nodes; node++) {
        PyObject *pages = node_pages(self, node);

        if (pages == NULL || PyList_Append(nodes, pages) != 0) {
            Py_CLEAR(nodes);
        }
        Py_XDECREF(pages);
    }
    arena_leave(self);
    return nodes == NULL ? NULL
                         : call_helper("uslub._look", "arena_snapshot", op, nodes);
}

/* ---- validate ---- */

struct findings {
    char **sentences;
    size_t count, room;
    bool lost; /* no memory for one of them */
};

/* Runs without the GIL. */
static void take_finding(const char *sentence, void *arg)
{
    struct findings *found = arg;
    size_t bytes = strlen(sentence) + 1;
    char *copy;

    if (found->count == found->room) {
        size_t room = found->room == 0 ? 16 : 2 * found->room;
        char **larger = PyMem_RawRealloc(found->sentences, room * sizeof(char *));

        if (larger == NULL) {
            found->lost = true;
            return;
        }
        found->sentences = larger;
        found->room = room;
    }
    copy = PyMem_RawMalloc(bytes);
    if (copy == NULL) {
        found->lost = true;
        return;
    }
    memcpy(copy, sentence, bytes);
    found->sentences[found->count++] = copy;
}

static PyObject *validate(struct arena *arena, us_cache *cache)
{
    struct findings found = {0};
    PyObject *list;

    Py_BEGIN_ALLOW_THREADS(void)
        us_validate(arena->engine, cache, take_finding, &found);
    Py_END_ALLOW_THREADS list = found.lost ? PyErr_NoMemory() : PyList_New(0);
    for (size_t i = 0; i < found.count; i++) {
        PyObject *sentence =
            list == NULL ? NULL
                         : PyUnicode_DecodeUTF8(found.sentences[i],
                                                (Py_ssize_t)strlen(found.sentences[i]),
                                                "replace");

        if (list != NULL && (sentence == NULL || PyList_Append(list, sentence) != 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(sentence);
        PyMem_RawFree(found.sentences[i]);
    }
    PyMem_RawFree(found.sentences);
    return list;
}

PyObject *arena_validate(PyObject *op, PyObject *unused)
{
    struct arena *self = (struct arena *)op;
    PyObject *list;

    (void)unused;
    if (!arena_enter(self)) {
        return NULL;
    }
    list = validate(self, NULL);
    arena_leave(self);
    return list;
}

PyObject *cache_validate(PyObject *op, PyObject *unused)
{
    struct cache *self = (struct cache *)op;
    PyObject *list;

    (void)unused;
    if (!cache_enter(self)) {
        return NULL;
    }
    list = validate(self->arena, self->engine);
    arena_leave(self->arena);
    return list;
}

/* ---- caches ---- */

static PyObject *geometry_fields(const struct us_geometry *g)
{
    return Py_BuildValue("{sKsKsIsIsIsIsIsIsIsIsIsIsI}", "object_size",
                         (ull)g->object_size, "size", (ull)g->size, "align", g->align,
                         "offset", g->offset, "inuse", g->inuse, "red_left_pad",
                         g->red_left_pad, "order", g->order, "objects", g->objects,
                         "min_order", g->min_order, "min_objects", g->min_objects,
                         "min_partial", g->min_partial, "cpu_partial", g->cpu_partial,
                         "cpu_partial_slabs", g->cpu_partial_slabs);
}

PyObject *geometry_record(struct state *state, const struct us_geometry *g)
{
    return make_record(state->geometry, geometry_fields(g));
}

struct names {
    PyObject *list;
    bool failed;
};

static bool take_name(const char *name, void *arg)
{
    struct names *names = arg;
    PyObject *text = PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");

    names->failed = text == NULL || PyList_Append(names->list, text) != 0;
    Py_XDECREF(text);
    return !names->failed;
}

static PyObject *aliases(struct cache *self)
{
    struct names names = {.list = PyList_New(0)};
    PyObject *tuple = NULL;
    us_err code;

    if (names.list == NULL) {
        return NULL;
    }
    code = us_cache_aliases(self->engine, take_name, &names);
    if (code != US_OK) {
        raise_engine(self->state, code);
    } else if (!names.failed) {
        tuple = PyList_AsTuple(names.list);
    }
    Py_DECREF(names.list);
    return tuple;
}

PyObject *cache_aliases(PyObject *op, void *unused)
{
    struct cache *self = (struct cache *)op;
    PyObject *tuple;

    (void)unused;
    if (!cache_enter(self)) {
        return NULL;
    }
    tuple = aliases(self);
    arena_leave(self->arena);
    return tuple;
}

/* The rest of CacheInfo; `flags` and `others` are stolen and may be NULL. */
static PyObject *state_fields(const struct us_cache_info *info, PyObject *flags,
                              PyObject *others)
{
    if (flags == NULL || others == NULL) {
        Py_XDECREF(flags);
        Py_XDECREF(others);
        return NULL;
    }
    return Py_BuildValue(
        "{sssIsNsisIsOsisisKsKsKsKsKsKsN}", "name", info->name, "id", info->id, "flags",
        flags, "refcount", (int)info->refcount, "defrag_ratio", info->defrag_ratio,
        "has_ctor", info->has_ctor ? Py_True : Py_False, "useroffset",
        (int)info->useroffset, "usersize", (int)info->usersize, "slabs",
        (ull)info->slabs, "objects_total", (ull)info->objects_total, "partial",
        (ull)info->partial, "partial_free", (ull)info->partial_free, "cpu_slabs",
        (ull)info->cpu_slabs, "chain_slabs", (ull)info->chain_slabs, "aliases", others);
}

static PyObject *info_record(struct cache *self)
{
    struct us_cache_info info;
    us_err code = us_cache_stat(self->engine, &info);
    PyObject *flags, *more, *fields;

    if (code != US_OK) {
        return raise_engine(self->state, code);
    }
    flags = PyObject_CallFunction(self->state->flags_type, "I", info.flags);
    more = state_fields(&info, flags, flags == NULL ? NULL : aliases(self));
    fields = more == NULL ? NULL : geometry_fields(&info.geometry);
    if (fields != NULL && PyDict_Update(fields, more) != 0) {
        Py_CLEAR(fields);
    }
    Py_XDECREF(more);
    return make_record(self->state->cache_info, fields);
}

PyObject *cache_info(PyObject *op, PyObject *unused)
{
    struct cache *self = (struct cache *)op;
    PyObject *record;

    (void)unused;
    if (!cache_enter(self)) {
        return NULL;
    }
    record = info_record(self);
    arena_leave(self->arena);
    return record;
}

/* One counter: its total, or a tuple of its value on each CPU. */
static PyObject *counter(struct cache *self, enum us_stat item, bool per_cpu)
{
    uint32_t cpus = self->arena->birth.cpus;
    PyObject *values = per_cpu ? PyTuple_New(cpus) : NULL;
    ull total = 0;

    for (uint32_t cpu = 0; cpu < cpus; cpu++) {
        ull here = us_cache_counter(self->engine, item, (int)cpu);

        total += here;
        if (values != NULL) {
            PyObject *number = PyLong_FromUnsignedLongLong(here);

            if (number == NULL) {
                Py_CLEAR(values);
                return NULL;
            }
            PyTuple_SET_ITEM(values, cpu, number);
        }
    }
    return per_cpu ? values : PyLong_FromUnsignedLongLong(total);
}

PyObject *cache_stats(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    static const struct parameters expected = {"stats", 0, 0, {"per_cpu"}};
    struct cache *self = (struct cache *)op;
    PyObject *value, *stats;
    bool per_cpu;

    if (!parse_arguments(&expected, args, nargs, kwnames, &value) ||
        !convert_bool(value, &per_cpu) || !cache_enter(self)) {
        return NULL;
    }
    stats = PyDict_New();
    for (int i = 0; stats != NULL && i < US_STAT_ITEMS; i++) {
        enum us_stat item = (enum us_stat)self->state->stat_order[i];
        PyObject *number = counter(self, item, per_cpu);

        if (number == NULL ||
            PyDict_SetItemString(stats, us_stat_name(item), number) != 0) {
            Py_CLEAR(stats);
        }
        Py_XDECREF(number);
    }
    arena_leave(self->arena);
    return stats;
}
