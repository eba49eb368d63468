/* SPDX-License-Identifier: MIT */
/*
 * arena.c - Arena: create, attach, unlink, close, and what an arena is.
 *
 * An Arena is one attachment. Closing it, or losing the last reference to it, gives up
 * its own place among the holds; the mapping goes when no Object and no running call
 * has one.
 */
#include "binding.h"

#include <stddef.h>
#include <structmember.h>

/* ---- holds ---- */

void arena_detach(struct arena *self)
{
    constructors_free(self);
    us_arena_detach(self->engine);
}

static void close_once(struct arena *self)
{
    if (flag_raise(&self->closed)) {
        arena_leave(self);
    }
}

/* Owns `engine`, also when it fails. */
static PyObject *arena_wrap(PyTypeObject *type, struct state *state, us_arena *engine)
{
    struct arena *self = PyObject_GC_New(struct arena, type);
    us_err code;

    if (self == NULL) {
        us_arena_detach(engine);
        return NULL;
    }
    self->engine = engine;
    self->holds = 1;
    self->closed = 0;
    self->state = state;
    self->constructors = NULL;
    self->weakrefs = NULL;
    self->spares.count = 0;
    memset(self->recent, 0, sizeof(self->recent));
    memset(&self->birth, 0, sizeof(self->birth));
    memset(self->id, 0, sizeof(self->id));
    PyObject_GC_Track((PyObject *)self);
    code = us_arena_stat(engine, &self->birth);
    if (code != US_OK) {
        raise_engine(state, code);
        Py_DECREF(self);
        return NULL;
    }
    for (size_t i = 0; i < sizeof(self->birth.id); i++) {
        (void)PyOS_snprintf(self->id + 2 * i, 3, "%02x", self->birth.id[i]);
    }
    return (PyObject *)self;
}

static void arena_dealloc(PyObject *op)
{
    struct arena *self = (struct arena *)op;
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    close_once(self);
    spares_drop(&self->spares);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static int arena_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct arena *self = (struct arena *)op;
    int stop = spares_traverse(&self->spares, visit, arg);

    Py_VISIT(Py_TYPE(op));
    return stop != 0 ? stop : constructors_traverse(self, visit, arg);
}

static int arena_clear(PyObject *op)
{
    constructors_forget((struct arena *)op);
    return 0;
}

/* ---- create, attach, unlink, close ---- */

static bool read_config(struct state *state, PyObject *const *values,
                        struct us_arena_config *config)
{
    int64_t cpus = 0, nodes = 0, order_cpus = 0;

    config->keep = UINT64_MAX;
    if (!convert_size_positive(state, values[1], "size", &config->size) ||
        !convert_int(state, values[2], "cpus", 1, UINT32_MAX, &cpus) ||
        !convert_int(state, values[3], "nodes", 1, UINT32_MAX, &nodes) ||
        !convert_size(state, values[4], "reserve", &config->reserve) ||
        !convert_size(state, values[5], "keep", &config->keep) ||
        !convert_int(state, values[6], "order_cpus", 1, UINT32_MAX, &order_cpus)) {
        return false;
    }
    config->cpus = (uint32_t)cpus;
    config->nodes = (uint32_t)nodes;
    config->order_cpus = (uint32_t)order_cpus;
    return true;
}

static PyObject *arena_create(PyObject *type, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    static const struct parameters expected = {
        "create",
        2,
        0,
        {"name", "size", "cpus", "nodes", "reserve", "keep", "order_cpus"},
    };
    struct state *state = PyType_GetModuleState((PyTypeObject *)type);
    struct us_arena_config config = {0};
    PyObject *values[7];
    const char *name = NULL;
    us_arena *engine;
    us_err code;

    if (!parse_arguments(&expected, args, nargs, kwnames, values)) {
        return NULL;
    }
    if (values[1] == NULL) {
        PyErr_SetString(PyExc_TypeError,
                        "create() is missing its argument 'size', bytes for "
                        "objects such as size='1GiB'");
        return NULL;
    }
    if (values[0] != NULL && values[0] != Py_None &&
        (name = convert_name(state, values[0], "arena name")) == NULL) {
        return NULL;
    }
    if (!read_config(state, values, &config)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS code = us_arena_create(name, &config, &engine);
    Py_END_ALLOW_THREADS if (code != US_OK)
    {
        return raise_engine(state, code);
    }
    return arena_wrap((PyTypeObject *)type, state, engine);
}

static PyObject *arena_attach(PyObject *type, PyObject *where)
{
    struct state *state = PyType_GetModuleState((PyTypeObject *)type);
    us_arena *engine;
    us_err code;

    if (PyLong_Check(where)) {
        int fd = -1;

        if (!convert_cpu(state, where, "file descriptor", &fd)) {
            return NULL;
        }
        Py_BEGIN_ALLOW_THREADS code = us_arena_attach_fd(fd, &engine);
        Py_END_ALLOW_THREADS
    } else {
        const char *name = convert_name(state, where, "arena name");

        if (name == NULL) {
            return NULL;
        }
        Py_BEGIN_ALLOW_THREADS code = us_arena_attach(name, &engine);
        Py_END_ALLOW_THREADS
    }
    if (code != US_OK) {
        return raise_engine(state, code);
    }
    return arena_wrap((PyTypeObject *)type, state, engine);
}

static PyObject *arena_unlink(PyObject *type, PyObject *value)
{
    struct state *state = PyType_GetModuleState((PyTypeObject *)type);
    const char *name = convert_name(state, value, "arena name");
    us_err code;

    if (name == NULL) {
        return NULL;
    }
    code = us_arena_unlink(name);
    if (code != US_OK) {
        return raise_engine(state, code);
    }
    Py_RETURN_NONE;
}

static PyObject *arena_close(PyObject *op, PyObject *unused)
{
    (void)unused;
    close_once((struct arena *)op);
    Py_RETURN_NONE;
}

static PyObject *arena_context_enter(PyObject *op, PyObject *unused)
{
    struct arena *self = (struct arena *)op;

    (void)unused;
    return flag_read(&self->closed) ? raise_closed(self) : Py_NewRef(op);
}

static PyObject *arena_context_exit(PyObject *op, PyObject *const *args,
                                    Py_ssize_t nargs)
{
    (void)args;
    (void)nargs;
    return arena_close(op, NULL);
}

/* ---- small calls ---- */

static PyObject *arena_fileno(PyObject *op, PyObject *unused)
{
    struct arena *self = (struct arena *)op;
    int fd;

    (void)unused;
    if (!arena_enter(self)) {
        return NULL;
    }
    fd = us_arena_fd(self->engine);
    arena_leave(self);
    return PyLong_FromLong(fd);
}

static PyObject *arena_trim(PyObject *op, PyObject *unused)
{
    struct arena *self = (struct arena *)op;
    uint64_t given = 0;
    us_err code;

    (void)unused;
    if (!arena_enter(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS code = us_arena_trim(self->engine, &given);
    Py_END_ALLOW_THREADS arena_leave(self);
    if (code != US_OK) {
        return raise_engine(self->state, code);
    }
    return PyLong_FromUnsignedLongLong(given);
}

static PyObject *arena_cpu_dead(PyObject *op, PyObject *value)
{
    struct arena *self = (struct arena *)op;
    int cpu = 0;
    us_err code;

    if (!convert_cpu(self->state, value, "cpu", &cpu) || !arena_enter(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS code = us_cpu_dead(self->engine, cpu);
    Py_END_ALLOW_THREADS arena_leave(self);
    if (code != US_OK) {
        return raise_engine(self->state, code);
    }
    Py_RETURN_NONE;
}

static PyObject *arena_ndarray(PyObject *op, PyObject *args, PyObject *kwargs)
{
    return call_method("uslub._arrays", "ndarray", op, args, kwargs);
}

static PyObject *arena_dumps(PyObject *op, PyObject *args, PyObject *kwargs)
{
    return call_method("uslub._dumps", "dumps", op, args, kwargs);
}

static PyObject *arena_reduce(PyObject *op, PyObject *unused)
{
    (void)unused;
    return call_helper("uslub._wire", "reduce_arena", op, NULL);
}

/* ---- attributes ---- */

static PyObject *get_closed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(flag_read(&((struct arena *)op)->closed));
}

static PyObject *get_name(PyObject *op, void *unused)
{
    const char *name = ((struct arena *)op)->birth.name;

    (void)unused;
    if (name[0] == '\0') {
        Py_RETURN_NONE;
    }
    return PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
}

static PyObject *get_id(PyObject *op, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(((struct arena *)op)->id);
}

static PyObject *get_size(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((struct arena *)op)->birth.size);
}

static PyObject *get_cpus(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(((struct arena *)op)->birth.cpus);
}

static PyObject *get_nodes(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(((struct arena *)op)->birth.nodes);
}

static PyObject *get_owner(PyObject *op, void *unused)
{
    struct arena *self = (struct arena *)op;
    unsigned owner;

    (void)unused;
    if (!arena_enter(self)) {
        return NULL;
    }
    owner = us_owner(self->engine);
    arena_leave(self);
    return PyLong_FromUnsignedLong(owner);
}

static PyObject *arena_repr(PyObject *op)
{
    struct arena *self = (struct arena *)op;
    const char *closed = flag_read(&self->closed) ? ", closed" : "";
    const struct us_arena_info *birth = &self->birth;
    bool named = birth->name[0] != '\0';

    return PyUnicode_FromFormat("<uslub.Arena %s%s%s, %llu MiB, %u CPU%s, %u node%s%s>",
                                named ? "'" : "anonymous ",
                                named ? birth->name : self->id, named ? "'" : "",
                                (unsigned long long)(birth->size >> 20), birth->cpus,
                                birth->cpus == 1 ? "" : "s", birth->nodes,
                                birth->nodes == 1 ? "" : "s", closed);
}

/* ---- type ---- */

#define FAST(function)                                                                 \
    (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

static PyMethodDef arena_methods[] = {
    {"create", (PyCFunction)(void (*)(void))arena_create,
     METH_CLASS | METH_FASTCALL | METH_KEYWORDS,
     "create($type, name=None, size=..., *, cpus=None, nodes=None, reserve=0, keep=None, "
     "order_cpus=None)\n--\n\nMake an arena and attach to it; name=None: anonymous."},
    {"attach", arena_attach, METH_CLASS | METH_O,
     "attach($type, name, /)\n--\n\n"
     "Map an arena that exists, by name or by file descriptor."},
    {"unlink", arena_unlink, METH_CLASS | METH_O,
     "unlink($type, name, /)\n--\n\n"
     "Take the name away. Who has the arena attached keeps it."},
    {"close", arena_close, METH_NOARGS,
     "close($self, /)\n--\n\nEnd the use of this arena; objects and views stay valid."},
    {"__enter__", arena_context_enter, METH_NOARGS,
     "__enter__($self, /)\n--\n\nThe arena itself."},
    {"__exit__", (PyCFunction)(void (*)(void))arena_context_exit, METH_FASTCALL,
     "__exit__($self, /, *details)\n--\n\nclose()"},
    {"fileno", arena_fileno, METH_NOARGS,
     "fileno($self, /)\n--\n\nThe file descriptor; it stays the arena's."},
    {"cache", FAST(arena_cache),
     "cache($self, name, object_size=None, *, align=0, flags=0, ctor=None, order=None, "
     "min_partial=None, cpu_partial=None, useroffset=0, usersize=0, defrag_ratio=None)\n"
     "--\n\nThe cache of this name, made if need be."},
    {"caches", arena_caches, METH_NOARGS,
     "caches($self, /)\n--\n\nAll caches in order of creation."},
    {"kmalloc", FAST(arena_kmalloc),
     "kmalloc($self, n, *, zero=False, node=None, cpu=None, kind='normal', "
     "emergency=False)\n--\n\nA buffer of n bytes."},
    {"krealloc", FAST(arena_krealloc),
     "krealloc($self, buffer, n, *, zero=False, cpu=None, kind='normal')\n--\n\n"
     "Give a kmalloc buffer another size; the same object if it stays where it is."},
    {"ndarray", (PyCFunction)(void (*)(void))arena_ndarray,
     METH_VARARGS | METH_KEYWORDS,
     "ndarray($self, shape, dtype='float64', *, zero=False, order='C', node=None)\n--\n\n"
     "A NumPy array; the memory returns when its last view is gone."},
    {"dumps", (PyCFunction)(void (*)(void))arena_dumps, METH_VARARGS | METH_KEYWORDS,
     "dumps($self, x, *, protocol=5)\n--\n\n"
     "A Python object in one block of the arena; uslub.loads() reads it in place."},
    {"adopt", arena_adopt, METH_O,
     "adopt($self, handle, /)\n--\n\nTake over an object that was let go with obj.move()."},
    {"validate", arena_validate, METH_NOARGS,
     "validate($self, /)\n--\n\nCheck every invariant: one sentence per finding."},
    {"snapshot", arena_snapshot, METH_NOARGS,
     "snapshot($self, /)\n--\n\nWhat the arena looks like now: uslub.snapshot.ArenaSnapshot."},
    {"stats", arena_stats, METH_NOARGS,
     "stats($self, /)\n--\n\nEvery counter, summed over caches and CPUs."},
    {"info", arena_info, METH_NOARGS, "info($self, /)\n--\n\nuslub.ArenaInfo of now."},
    {"processes", arena_processes, METH_NOARGS,
     "processes($self, /)\n--\n\nA uslub.ProcessInfo for each participant."},
    {"threads", arena_threads, METH_NOARGS,
     "threads($self, /)\n--\n\nA uslub.ThreadInfo for each thread of a participant."},
    {"health", arena_health, METH_NOARGS,
     "health($self, /)\n--\n\nWhat recovery did and what it owes: uslub.Health."},
    {"trim", arena_trim, METH_NOARGS,
     "trim($self, /)\n--\n\nGive free pages back to the system; how many bytes."},
    {"cpu_dead", arena_cpu_dead, METH_O,
     "cpu_dead($self, cpu, /)\n--\n\nA CPU goes away: its slot is flushed in every cache."},
    {"__reduce__", arena_reduce, METH_NOARGS, NULL},
    {"reap", arena_reap, METH_NOARGS,
     "reap($self, /)\n--\n\nGive back what dead processes held: uslub.Reaped."},
    {"_receive", arena_receive, METH_O, "_receive($self, wire, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef arena_getset[] = {
    {"closed", get_closed, NULL, NULL, NULL},
    {"name", get_name, NULL, "None if anonymous.", NULL},
    {"id", get_id, NULL, "32 hex digits, random, made at creation.", NULL},
    {"size", get_size, NULL, "Bytes for objects.", NULL},
    {"cpus", get_cpus, NULL, "CPU slots.", NULL},
    {"nodes", get_nodes, NULL, "Memory nodes.", NULL},
    {"owner", get_owner, NULL, "Tag of this process in this arena.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef arena_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct arena, weakrefs), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot arena_slots[] = {
    {Py_tp_dealloc, arena_dealloc},
    {Py_tp_traverse, arena_traverse},
    {Py_tp_clear, arena_clear},
    {Py_tp_repr, arena_repr},
    {Py_tp_methods, arena_methods},
    {Py_tp_getset, arena_getset},
    {Py_tp_members, arena_members},
    {Py_tp_doc, "A heap that several processes map. Made by create() or attach().\n\n"
                "A named arena is the file /dev/shm/uslub.NAME until unlink(); an\n"
                "anonymous one lasts as long as somebody maps it."},
    {0, NULL},
};

PyType_Spec arena_spec = {
    .name = "uslub.Arena",
    .basicsize = sizeof(struct arena),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = arena_slots,
};
