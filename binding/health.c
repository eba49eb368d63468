/* SPDX-License-Identifier: MIT */
/*
 * health.c - who takes part in an arena, in the middle of what, and what recovery did:
 * processes(), threads(), health(), reap(), and _examine(), which looks from outside.
 *
 * Engine structs become records of uslub.info here. Nothing but reap() changes an
 * arena.
 */
#include "binding.h"

typedef unsigned long long ull;

/* Appends `item`, which is stolen, or drops the list. */
static PyObject *append(PyObject *list, PyObject *item)
{
    if (list == NULL || item == NULL || PyList_Append(list, item) != 0) {
        Py_CLEAR(list);
    }
    Py_XDECREF(item);
    return list;
}

static PyObject *truth(bool value)
{
    return value ? Py_True : Py_False;
}

/* ---- processes ---- */

static PyObject *process_record(struct state *state, const struct us_process_info *p)
{
    return make_record(state->process_info,
                       Py_BuildValue("{sIsisOsOsKsK}", "slot", p->slot, "pid",
                                     (int)p->pid, "alive", truth(p->alive), "is_self",
                                     truth(p->self), "start_time", (ull)p->start_time,
                                     "pid_namespace", (ull)p->pid_namespace));
}

static PyObject *processes(struct state *state, us_arena *engine)
{
    struct us_process_info *found = NULL;
    uint32_t room = 0, count;
    PyObject *list;

    while ((count = us_arena_processes(engine, found, room)) > room) {
        PyMem_RawFree(found);
        room = count + 8; /* some may join meanwhile */
        found = PyMem_RawMalloc(room * sizeof(*found));
        if (found == NULL) {
            return PyErr_NoMemory();
        }
    }
    list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        list = append(list, process_record(state, &found[i]));
    }
    PyMem_RawFree(found);
    return list;
}

PyObject *arena_processes(PyObject *op, PyObject *unused)
{
    struct arena *self = (struct arena *)op;
    PyObject *list;

    (void)unused;
    if (!arena_enter(self)) {
        return NULL;
    }
    list = processes(self->state, self->engine);
    arena_leave(self);
    return list;
}

/* ---- caches, at a glance ---- */

struct glance {
    PyObject *names;    /* by id */
    PyObject *doubtful; /* names, oldest id first */
    bool failed;
};

static void take_cache(uint32_t id, const char *name, bool doubtful, void *arg)
{
    struct glance *glance = arg;
    PyObject *key, *text;

    if (glance->failed) {
        return;
    }
    key = PyLong_FromUnsignedLong(id);
    text = PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
    glance->failed = key == NULL || text == NULL ||
                     PyDict_SetItem(glance->names, key, text) != 0 ||
                     (doubtful && PyList_Append(glance->doubtful, text) != 0);
    Py_XDECREF(key);
    Py_XDECREF(text);
}

static void glance_end(struct glance *glance)
{
    Py_CLEAR(glance->names);
    Py_CLEAR(glance->doubtful);
}

static bool glance_begin(us_arena *engine, struct glance *ret)
{
    ret->names = PyDict_New();
    ret->doubtful = PyList_New(0);
    ret->failed = ret->names == NULL || ret->doubtful == NULL;
    us_cache_glance(engine, take_cache, ret);
    if (ret->failed) {
        glance_end(ret);
    }
    return !ret->failed;
}

/* ---- threads ---- */

static PyObject *thread_record(struct state *state, PyObject *names,
                               const struct us_thread_info *t)
{
    PyObject *id = PyLong_FromUnsignedLong(t->cache), *name;

    if (id == NULL) {
        return NULL;
    }
    name = PyDict_GetItemWithError(names, id);
    Py_DECREF(id);
    if (name == NULL && PyErr_Occurred()) {
        return NULL;
    }
    return make_record(state->thread_info,
                       Py_BuildValue("{sIsIsisssOsIsO}", "slot", t->slot, "process",
                                     t->process, "tid", (int)t->tid, "operation",
                                     t->operation, "cache",
                                     name == NULL ? Py_None : name, "locks", t->locks,
                                     "dead", truth(t->dead)));
}

static PyObject *threads(struct state *state, us_arena *engine, PyObject *names)
{
    struct us_thread_info *found = NULL;
    uint32_t room = 0, count;
    PyObject *list;

    while ((count = us_arena_threads(engine, found, room)) > room) {
        PyMem_RawFree(found);
        room = count + 32; /* some may begin meanwhile */
        found = PyMem_RawMalloc(room * sizeof(*found));
        if (found == NULL) {
            return PyErr_NoMemory();
        }
    }
    list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        list = append(list, thread_record(state, names, &found[i]));
    }
    PyMem_RawFree(found);
    return list;
}

PyObject *arena_threads(PyObject *op, PyObject *unused)
{
    struct arena *self = (struct arena *)op;
    PyObject *list = NULL;
    struct glance glance;

    (void)unused;
    if (!arena_enter(self)) {
        return NULL;
    }
    if (glance_begin(self->engine, &glance)) {
        list = threads(self->state, self->engine, glance.names);
        glance_end(&glance);
    }
    arena_leave(self);
    return list;
}

/* ---- health ---- */

static PyObject *health(struct state *state, us_arena *engine)
{
    struct us_health h;
    us_err code = us_health(engine, &h);

    if (code != US_OK) {
        return raise_engine(state, code);
    }
    return make_record(
        state->health,
        Py_BuildValue(
            "{sOsIsIsIsOsIsIsIsKsKsKsKsKsKsKsK}", "poisoned", truth(h.poisoned),
            "poisoned_objects", h.poisoned_objects, "poisoned_slabs", h.poisoned_slabs,
            "doubtful", h.doubtful, "pages_doubtful", truth(h.pages_doubtful),
            "processes", h.processes, "threads", h.threads, "inside", h.inside,
            "objects", (ull)h.objects, "caches", (ull)h.caches, "slabs", (ull)h.slabs,
            "blocks", (ull)h.blocks, "last_ns", (ull)h.last_ns, "max_ns", (ull)h.max_ns,
            "total_ns", (ull)h.total_ns, "last_at", (ull)h.last_at));
}

PyObject *arena_health(PyObject *op, PyObject *unused)
{
    struct arena *self = (struct arena *)op;
    PyObject *record;

    (void)unused;
    if (!arena_enter(self)) {
        return NULL;
    }
    record = health(self->state, self->engine);
    arena_leave(self);
    return record;
}

PyObject *arena_reap(PyObject *op, PyObject *unused)
{
    struct arena *self = (struct arena *)op;
    struct us_reaped r;
    us_err code;

    (void)unused;
    if (!arena_enter(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS code = us_reap(self->engine, &r);
    Py_END_ALLOW_THREADS arena_leave(self);
    if (code != US_OK) {
        return raise_engine(self->state, code);
    }
    return make_record(self->state->reaped,
                       Py_BuildValue("{sIsIsKsIsIsI}", "processes", r.processes,
                                     "waiting", r.waiting, "objects", (ull)r.objects,
                                     "threads", r.threads, "caches", r.caches,
                                     "doubtful", r.doubtful));
}

/* ---- from outside ---- */

static PyObject *describe(struct state *state, us_arena *engine)
{
    struct glance glance;
    PyObject *all = NULL;

    if (glance_begin(engine, &glance)) {
        all = Py_BuildValue("NNNO", health(state, engine), processes(state, engine),
                            threads(state, engine, glance.names), glance.doubtful);
        glance_end(&glance);
    }
    return all;
}

PyObject *module_examine(PyObject *module, PyObject *value)
{
    struct state *state = PyModule_GetState(module);
    const char *name = convert_name(state, value, "arena name");
    PyObject *all;
    us_arena *engine;
    us_err code;

    if (name == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS code = us_arena_look(name, &engine);
    Py_END_ALLOW_THREADS if (code != US_OK)
    {
        return raise_engine(state, code);
    }
    all = describe(state, engine);
    us_arena_look_end(engine);
    return all;
}
