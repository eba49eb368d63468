/* SPDX-License-Identifier: MIT */
/*
 * bulk.c - alloc_bulk() and free_bulk(): all of them or none.
 */
#include "binding.h"

/* From here on other threads may run meanwhile. */
#define BULK_LONG 256

/* ---- alloc ---- */

static us_err alloc_pointers(struct cache *self, const struct placement *place,
                             size_t n, void **pointers)
{
    us_err code;

    if (n < BULK_LONG || self->calls_python) {
        return us_alloc_bulk(self->engine, place->gfp, place->cpu, place->node, n,
                             pointers);
    }
    Py_BEGIN_ALLOW_THREADS code =
        us_alloc_bulk(self->engine, place->gfp, place->cpu, place->node, n, pointers);
    Py_END_ALLOW_THREADS return code;
}

/* Objects around pointers[0..n); what gets no Object goes back. */
static PyObject *wrap_all(struct cache *self, size_t n, void **pointers)
{
    PyObject *list = PyList_New((Py_ssize_t)n);
    size_t done = 0;

    while (list != NULL && done < n && arena_enter(self->arena)) {
        PyObject *object =
            object_new(self, self->arena, pointers[done], self->object_size);

        if (object == NULL) {
            arena_leave(self->arena);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)done++, object);
    }
    if (list == NULL || done < n) {
        Py_CLEAR(list);
        (void)us_free_bulk(self->engine, n - done, pointers + done, -1);
    }
    return list;
}

static PyObject *alloc_many(struct cache *self, const struct placement *place, size_t n)
{
    void **pointers;
    PyObject *list;
    us_err code;

    /* A request that the whole arena could not hold needs no array of pointers. */
    if (n > self->arena->birth.size / self->geometry.size) {
        return raise_text(
            self->state, US_ENOMEM,
            "cache %R: %zu objects of %llu bytes were asked for, but the arena "
            "has %llu bytes in all",
            self->name, n, (unsigned long long)self->geometry.size,
            (unsigned long long)self->arena->birth.size);
    }
    pointers = PyMem_RawMalloc(n * sizeof(void *));
    if (pointers == NULL) {
        return PyErr_NoMemory();
    }
    code = alloc_pointers(self, place, n, pointers);
    if (code == US_OK) {
        list = wrap_all(self, n, pointers);
    } else {
        list = PyErr_Occurred() ? NULL : raise_engine(self->state, code);
    }
    PyMem_RawFree(pointers);
    return list;
}

PyObject *cache_alloc_bulk(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    static const struct parameters expected = {
        "alloc_bulk", 1, 1, {"n", "zero", "cpu", "node", "thisnode", "emergency"}};
    struct cache *self = (struct cache *)op;
    PyObject *values[6], *list = NULL;
    struct placement place;
    uint64_t n = 0;

    if (!parse_arguments(&expected, args, nargs, kwnames, values)) {
        return NULL;
    }
    if (!PyIndex_Check(values[0])) {
        return PyErr_Format(PyExc_TypeError, "n must be an int, not %.100s",
                            Py_TYPE(values[0])->tp_name);
    }
    if (!convert_size(self->state, values[0], "n", &n) ||
        !placement_from(self->state, values + 1, &place) || !cache_enter(self)) {
        return NULL;
    }
    list = n == 0 ? PyList_New(0) : alloc_many(self, &place, (size_t)n);
    arena_leave(self->arena);
    return list;
}

/* ---- free ---- */

/* Claims one object for its end; false: it must not end here. */
static bool claim_one(struct cache *self, PyObject *item, Py_ssize_t place,
                      PyObject *const *containers)
{
    struct object *object = (struct object *)item;

    if (Py_TYPE(item) != self->state->object_type) {
        PyErr_Format(PyExc_TypeError, "free_bulk() takes Objects, item %zd is a %.100s",
                     place, Py_TYPE(item)->tp_name);
        return false;
    }
    if (pointer_read(&object->data) == NULL) {
        raise_text(self->state, US_EDOUBLEFREE,
                   "item %zd is already free: nothing was freed", place);
        return false;
    }
    if (object->cache == NULL || object->cache->engine != self->engine) {
        raise_text(self->state, US_EWRONGCACHE,
                   "item %zd is %R, not of cache %R: nothing was freed", place, item,
                   self->name);
        return false;
    }
    if (count_read(&object->word) & WORD_ENDING) {
        raise_text(self->state, US_EDOUBLEFREE,
                   "item %zd, %R, stands in the list twice: nothing was freed", place,
                   item);
        return false;
    }
    return object_claim(object, "free_bulk", containers);
}

static us_err free_pointers(struct cache *self, size_t n, void **pointers, int cpu)
{
    us_err code;

    if (n < BULK_LONG) {
        return us_free_bulk(self->engine, n, pointers, cpu);
    }
    Py_BEGIN_ALLOW_THREADS code = us_free_bulk(self->engine, n, pointers, cpu);
    Py_END_ALLOW_THREADS return code;
}

/* The items of `tuple`, which are in our hands; `given` is where they came from. */
static bool free_many(struct cache *self, PyObject *given, PyObject *tuple, int cpu)
{
    size_t n = (size_t)PyTuple_GET_SIZE(tuple);
    PyObject **items = ((PyTupleObject *)tuple)->ob_item;
    PyObject *containers[] = {tuple, given, NULL};
    void **pointers = PyMem_RawMalloc((n + 1) * sizeof(void *));
    size_t claimed = 0;
    us_err code;

    if (pointers == NULL) {
        PyErr_NoMemory();
        return false;
    }
    while (claimed < n &&
           claim_one(self, items[claimed], (Py_ssize_t)claimed, containers)) {
        pointers[claimed] = ((struct object *)items[claimed])->data;
        claimed++;
    }
    if (claimed == n) {
        code = free_pointers(self, n, pointers, cpu);
        if (code == US_OK) {
            for (size_t i = 0; i < n; i++) {
                object_empty((struct object *)items[i]);
            }
            PyMem_RawFree(pointers);
            return true;
        }
        raise_engine(self->state, code);
    }
    while (claimed > 0) {
        object_unclaim((struct object *)items[--claimed]);
    }
    PyMem_RawFree(pointers);
    return false;
}

PyObject *cache_free_bulk(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames)
{
    static const struct parameters expected = {"free_bulk", 1, 1, {"objects", "cpu"}};
    struct cache *self = (struct cache *)op;
    PyObject *values[2], *given, *copy;
    int cpu = -1;
    bool done;

    if (!parse_arguments(&expected, args, nargs, kwnames, values) ||
        !convert_cpu(self->state, values[1], "cpu", &cpu)) {
        return NULL;
    }
    given = PySequence_Fast(values[0], "free_bulk() takes a sequence of Objects");
    /* A tuple of our own: the list may change while other threads run. */
    copy = given == NULL ? NULL : PySequence_Tuple(given);
    if (copy == NULL || !cache_enter(self)) {
        Py_XDECREF(given);
        Py_XDECREF(copy);
        return NULL;
    }
    done = PyTuple_GET_SIZE(copy) == 0 || free_many(self, given, copy, cpu);
    arena_leave(self->arena);
    Py_DECREF(given);
    Py_DECREF(copy);
    return done ? Py_NewRef(Py_None) : NULL;
}
