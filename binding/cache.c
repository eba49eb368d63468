/* SPDX-License-Identifier: MIT */
/*
 * cache.c - Cache: alloc() on the hot path, and the upkeep of one cache.
 *
 * cache_alloc() is the call that everything else is measured by: no argument, no lock
 * given up, one call into the engine and one spare Object.
 */
#include "object.h"

#include <stddef.h>
#include <structmember.h>

static COLD bool refuse_destroyed(struct cache *self)
{
    raise_text(self->state, US_ENOCACHE,
               "cache %R was destroyed: arena.cache() makes it again", self->name);
    return false;
}

static inline bool enter(struct cache *self)
{
    if (UNLIKELY(flag_read(&self->destroyed))) {
        return refuse_destroyed(self);
    }
    return arena_enter(self->arena);
}

bool cache_enter(struct cache *self)
{
    return enter(self);
}

/* ---- alloc ---- */

static COLD PyObject *alloc_failed(struct cache *self)
{
    if (!PyErr_Occurred()) { /* else a constructor spoke */
        raise_engine(self->state, us_last_code());
    }
    arena_leave(self->arena);
    return NULL;
}

static COLD PyObject *wrap_in_new(struct cache *self, void *data)
{
    PyObject *object = object_new(self, self->arena, data, self->object_size);

    if (object == NULL) {
        (void)us_free(self->engine, data);
        arena_leave(self->arena);
    }
    return object;
}

/* An Object around `data`, or `data` goes back. */
static inline PyObject *wrap(struct cache *self, void *data)
{
    struct object *spare = spares_take(&self->spares);

    return LIKELY(spare != NULL) ? object_begin(spare, data, &self->ob_base)
                                 : wrap_in_new(self, data);
}

bool placement_from(struct state *state, PyObject *const values[5],
                    struct placement *ret)
{
    bool zero, thisnode, emergency;

    ret->cpu = -1;
    ret->node = -1;
    if (!convert_bool(values[0], &zero) ||
        !convert_cpu(state, values[1], "cpu", &ret->cpu) ||
        !convert_cpu(state, values[2], "node", &ret->node) ||
        !convert_bool(values[3], &thisnode) || !convert_bool(values[4], &emergency)) {
        return false;
    }
    ret->gfp = (zero ? US_GFP_ZERO : 0u) | (thisnode ? US_GFP_THISNODE : 0u) |
               (emergency ? US_GFP_EMERGENCY : 0u);
    return true;
}

static COLD PyObject *alloc_placed(struct cache *self, PyObject *const *args,
                                   Py_ssize_t nargs, PyObject *kwnames)
{
    static const struct parameters expected = {
        "alloc", 0, 0, {"zero", "cpu", "node", "thisnode", "emergency"}};
    struct placement place;
    PyObject *values[5];
    void *data;

    if (!parse_arguments(&expected, args, nargs, kwnames, values) ||
        !placement_from(self->state, values, &place) || !cache_enter(self)) {
        return NULL;
    }
    data = us_alloc_on(self->engine, place.gfp, place.cpu, place.node);
    return data == NULL ? alloc_failed(self) : wrap(self, data);
}

static PyObject *cache_alloc(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    struct cache *self = (struct cache *)op;
    void *data;

    if (UNLIKELY(nargs != 0 || kwnames != NULL)) {
        return alloc_placed(self, args, nargs, kwnames);
    }
    if (UNLIKELY(!enter(self))) {
        return NULL;
    }
    data = us_alloc(self->engine);
    if (UNLIKELY(data == NULL)) {
        return alloc_failed(self);
    }
    return wrap(self, data);
}

/* ---- upkeep: the GIL is given up, these may take long ---- */

static PyObject *upkeep(PyObject *op, us_err (*call)(us_cache *))
{
    struct cache *self = (struct cache *)op;
    us_err code;

    if (!cache_enter(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS code = call(self->engine);
    Py_END_ALLOW_THREADS arena_leave(self->arena);
    if (code != US_OK) {
        return raise_engine(self->state, code);
    }
    Py_RETURN_NONE;
}

static PyObject *upkeep_on(PyObject *op, PyObject *value,
                           us_err (*call)(us_cache *, int))
{
    struct cache *self = (struct cache *)op;
    int cpu = -1;
    us_err code;

    if (!convert_cpu(self->state, value, "cpu", &cpu) || !cache_enter(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS code = call(self->engine, cpu);
    Py_END_ALLOW_THREADS arena_leave(self->arena);
    if (code != US_OK) {
        return raise_engine(self->state, code);
    }
    Py_RETURN_NONE;
}

static PyObject *cache_flush(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    static const struct parameters expected = {"flush", 1, 0, {"cpu"}};
    PyObject *cpu;

    if (!parse_arguments(&expected, args, nargs, kwnames, &cpu)) {
        return NULL;
    }
    return upkeep_on(op, cpu, us_cache_flush);
}

static PyObject *cache_flush_slab(PyObject *op, PyObject *cpu)
{
    return upkeep_on(op, cpu, us_cache_flush_slab);
}

static PyObject *cache_flush_chain(PyObject *op, PyObject *cpu)
{
    return upkeep_on(op, cpu, us_cache_flush_chain);
}

static PyObject *cache_shrink(PyObject *op, PyObject *unused)
{
    (void)unused;
    return upkeep(op, us_cache_shrink);
}

static PyObject *cache_shrink_nodes(PyObject *op, PyObject *unused)
{
    (void)unused;
    return upkeep(op, us_cache_shrink_nodes);
}

static PyObject *cache_clear_stats(PyObject *op, PyObject *unused)
{
    struct cache *self = (struct cache *)op;

    (void)unused;
    if (!cache_enter(self)) {
        return NULL;
    }
    us_cache_counters_clear(self->engine);
    arena_leave(self->arena);
    Py_RETURN_NONE;
}

static PyObject *cache_destroy(PyObject *op, PyObject *unused)
{
    struct cache *self = (struct cache *)op;
    const char *name = convert_name(self->state, self->name, "cache name");
    us_err code;

    (void)unused;
    if (name == NULL || !cache_enter(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS code = us_cache_destroy(self->arena->engine, name);
    Py_END_ALLOW_THREADS arena_leave(self->arena);
    if (code != US_OK) {
        return raise_engine(self->state, code);
    }
    (void)flag_raise(&self->destroyed);
    Py_RETURN_NONE;
}

/* ---- what can be tuned ---- */

static PyObject *tunable(PyObject *op, size_t field)
{
    struct cache *self = (struct cache *)op;
    struct us_cache_info info;
    uint32_t value;
    us_err code;

    if (!cache_enter(self)) {
        return NULL;
    }
    code = us_cache_stat(self->engine, &info);
    arena_leave(self->arena);
    if (code != US_OK) {
        return raise_engine(self->state, code);
    }
    memcpy(&value, (char *)&info.geometry + field, sizeof(value));
    return PyLong_FromUnsignedLong(value);
}

static int tune(PyObject *op, PyObject *value, const char *what,
                us_err (*call)(us_cache *, uint32_t))
{
    struct cache *self = (struct cache *)op;
    int64_t number = -1;
    us_err code;

    if (value == NULL || value == Py_None) {
        PyErr_Format(PyExc_TypeError, "%s must be an int and cannot be deleted", what);
        return -1;
    }
    if (!convert_int(self->state, value, what, 0, INT32_MAX, &number) ||
        !cache_enter(self)) {
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS code = call(self->engine, (uint32_t)number);
    Py_END_ALLOW_THREADS arena_leave(self->arena);
    if (code != US_OK) {
        raise_engine(self->state, code);
        return -1;
    }
    return 0;
}

static PyObject *get_min_partial(PyObject *op, void *unused)
{
    (void)unused;
    return tunable(op, offsetof(struct us_geometry, min_partial));
}

static int set_min_partial(PyObject *op, PyObject *value, void *unused)
{
    (void)unused;
    return tune(op, value, "min_partial", us_cache_set_min_partial);
}

static PyObject *get_cpu_partial(PyObject *op, void *unused)
{
    (void)unused;
    return tunable(op, offsetof(struct us_geometry, cpu_partial));
}

static int set_cpu_partial(PyObject *op, PyObject *value, void *unused)
{
    (void)unused;
    return tune(op, value, "cpu_partial", us_cache_set_cpu_partial);
}

static PyObject *get_cpu_partial_slabs(PyObject *op, void *unused)
{
    (void)unused;
    return tunable(op, offsetof(struct us_geometry, cpu_partial_slabs));
}

static int set_cpu_partial_slabs(PyObject *op, PyObject *value, void *unused)
{
    (void)unused;
    return tune(op, value, "cpu_partial_slabs", us_cache_set_cpu_partial_slabs);
}

/* ---- what never changes ---- */

static PyObject *get_size(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((struct cache *)op)->geometry.size);
}

static PyObject *get_align(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(((struct cache *)op)->geometry.align);
}

static PyObject *get_order(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(((struct cache *)op)->geometry.order);
}

static PyObject *get_objects_per_slab(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(((struct cache *)op)->geometry.objects);
}

static PyObject *get_flags(PyObject *op, void *unused)
{
    struct cache *self = (struct cache *)op;

    (void)unused;
    return PyObject_CallFunction(self->state->flags_type, "I", self->flags);
}

static PyObject *cache_repr(PyObject *op)
{
    struct cache *self = (struct cache *)op;

    return PyUnicode_FromFormat("<uslub.Cache %R, %zd bytes, %u objects in %llu KiB%s>",
                                self->name, self->object_size, self->geometry.objects,
                                4ULL << self->geometry.order,
                                flag_read(&self->destroyed) ? ", destroyed" : "");
}

static PyObject *cache_compare(PyObject *left, PyObject *right, int op)
{
    bool same;

    if ((op != Py_EQ && op != Py_NE) || Py_TYPE(left) != Py_TYPE(right)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    same = ((struct cache *)left)->engine == ((struct cache *)right)->engine;
    return PyBool_FromLong(same == (op == Py_EQ));
}

static Py_hash_t cache_hash(PyObject *op)
{
    Py_hash_t hash = (Py_hash_t)((uintptr_t)((struct cache *)op)->engine >> 4);

    return hash == -1 ? -2 : hash;
}

/* The receiver asks its own attachment for the name. */
static PyObject *cache_reduce(PyObject *op, PyObject *unused)
{
    (void)unused;
    return call_helper("uslub._wire", "reduce_cache", op, NULL);
}

/* ---- type ---- */

static void cache_dealloc(PyObject *op)
{
    struct cache *self = (struct cache *)op;
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    cache_forget(self);
    spares_drop(&self->spares);
    Py_DECREF(self->name);
    Py_DECREF(self->arena);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static int cache_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((struct cache *)op)->arena);
    return spares_traverse(&((struct cache *)op)->spares, visit, arg);
}

#define FAST(function)                                                                 \
    (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

static PyMethodDef cache_methods[] = {
    {"alloc", FAST(cache_alloc),
     "alloc($self, /, *, zero=False, cpu=None, node=None, thisnode=False, "
     "emergency=False)\n--\n\nOne object."},
    {"alloc_bulk", FAST(cache_alloc_bulk),
     "alloc_bulk($self, n, /, *, zero=False, cpu=None, node=None, thisnode=False, "
     "emergency=False)\n--\n\nA list of n objects, or an exception and none."},
    {"free_bulk", FAST(cache_free_bulk),
     "free_bulk($self, objects, /, *, cpu=None)\n--\n\nFree all of them, or raise and free "
     "none."},
    {"flush", FAST(cache_flush),
     "flush($self, /, cpu=None)\n--\n\nFlush the slot of one CPU, or of all."},
    {"flush_slab", cache_flush_slab, METH_O,
     "flush_slab($self, cpu, /)\n--\n\nThe first half of a flush."},
    {"flush_chain", cache_flush_chain, METH_O,
     "flush_chain($self, cpu, /)\n--\n\nThe second half of a flush."},
    {"shrink", cache_shrink, METH_NOARGS,
     "shrink($self, /)\n--\n\nFlush all CPUs, discard empty slabs, sort the rest."},
    {"shrink_nodes", cache_shrink_nodes, METH_NOARGS,
     "shrink_nodes($self, /)\n--\n\nThe node half of a shrink: no flush."},
    {"destroy", cache_destroy, METH_NOARGS,
     "destroy($self, /)\n--\n\nTake the cache away; CacheBusy while objects are in use."},
    {"validate", cache_validate, METH_NOARGS,
     "validate($self, /)\n--\n\nCheck every invariant: one sentence per finding."},
    {"stats", FAST(cache_stats),
     "stats($self, /, *, per_cpu=False)\n--\n\nEvery counter, summed or per CPU."},
    {"clear_stats", cache_clear_stats, METH_NOARGS,
     "clear_stats($self, /)\n--\n\nSet every counter to zero."},
    {"info", cache_info, METH_NOARGS, "info($self, /)\n--\n\nuslub.CacheInfo of now."},
    {"snapshot", cache_snapshot, METH_NOARGS,
     "snapshot($self, /)\n--\n\nWhat the cache looks like now: uslub.snapshot.CacheSnapshot."},
    {"__reduce__", cache_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef cache_getset[] = {
    {"size", get_size, NULL, "Bytes from one object to the next.", NULL},
    {"align", get_align, NULL, NULL, NULL},
    {"order", get_order, NULL, "A slab is 2**order pages.", NULL},
    {"objects_per_slab", get_objects_per_slab, NULL, NULL, NULL},
    {"flags", get_flags, NULL, "uslub.Flags", NULL},
    {"aliases", cache_aliases, NULL, "Other names merged into this cache.", NULL},
    {"min_partial", get_min_partial, set_min_partial, "Empty slabs that a node keeps.",
     NULL},
    {"cpu_partial", get_cpu_partial, set_cpu_partial,
     "Objects that a CPU's chain may hold; setting it flushes every CPU.", NULL},
    {"cpu_partial_slabs", get_cpu_partial_slabs, set_cpu_partial_slabs,
     "The same limit in slabs.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef cache_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct cache, weakrefs), READONLY,
     NULL},
    {"name", T_OBJECT_EX, offsetof(struct cache, name), READONLY, "As asked for."},
    {"arena", T_OBJECT_EX, offsetof(struct cache, arena), READONLY, NULL},
    {"object_size", T_PYSSIZET, offsetof(struct cache, object_size), READONLY,
     "Bytes that an object may use."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot cache_slots[] = {
    {Py_tp_dealloc, cache_dealloc},
    {Py_tp_traverse, cache_traverse},
    {Py_tp_repr, cache_repr},
    {Py_tp_richcompare, cache_compare},
    {Py_tp_hash, cache_hash},
    {Py_tp_methods, cache_methods},
    {Py_tp_getset, cache_getset},
    {Py_tp_members, cache_members},
    {Py_tp_doc, "Objects of one size (kmem_cache). Made by arena.cache().\n\n"
                "Two Cache objects are equal if they are the same cache of one arena."},
    {0, NULL},
};

PyType_Spec cache_spec = {
    .name = "uslub.Cache",
    .basicsize = sizeof(struct cache),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = cache_slots,
};
