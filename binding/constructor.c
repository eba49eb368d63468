/* SPDX-License-Identifier: MIT */
/*
 * constructor.c - ctor=bytes, which any process can apply, and ctor=callable, which
 * only this interpreter can.
 *
 * The engine calls a callable from inside an allocation, with no lock held and, because
 * cache.c never lets go of it for such caches, with the GIL. The callable sees the
 * object as a memoryview of a borrowed Object that is emptied afterwards.
 */
#include "binding.h"

/*
 * What the engine hands back to us. Never freed: another attachment of this process may
 * share the engine's cache and call after our Arena has gone; it then finds no
 * callable.
 */
struct constructor {
    struct constructor *next;
    struct arena *arena; /* borrowed; NULL when it has gone */
    PyObject *callable;
    PyInterpreterState *interpreter;
    uint64_t object_size;
};

/* Calls `callable` with a view of `object`; the view must be gone afterwards. */
static bool call_with_view(struct constructor *self, struct object *object)
{
    PyObject *callable = Py_NewRef(self->callable);
    PyObject *view = PyMemoryView_FromObject((PyObject *)object);
    PyObject *done = NULL, *released = NULL;
    bool good;

    done = view == NULL ? NULL : PyObject_CallOneArg(callable, view);
    if (done != NULL) {
        released = PyObject_CallMethod(view, "release", NULL);
    }
    if (released != NULL && count_read(&object->word) >= WORD_EXPORT) {
        raise_own(
            self->arena->state, OWN_IN_USE,
            "the constructor %R kept a view of the object: it may look at it only "
            "during the call",
            callable);
        Py_CLEAR(released);
    }
    good = released != NULL;
    if (!good && view != NULL) {
        PyObject *type, *value, *traceback;

        PyErr_Fetch(&type, &value, &traceback);
        Py_XDECREF(PyObject_CallMethod(view, "release", NULL));
        PyErr_Restore(type, value, traceback); /* forgets what release() had to say */
    }
    Py_XDECREF(released);
    Py_XDECREF(done);
    Py_XDECREF(view);
    Py_DECREF(callable);
    return good;
}

static bool construct(void *memory, void *context)
{
    struct constructor *self = context;
    struct object *object;
    bool good;

    if (self->callable == NULL || self->interpreter != PyInterpreterState_Get() ||
        !arena_enter(self->arena)) {
        return false; /* the engine says ConstructorFailed, or arena_enter() said why */
    }
    object = (struct object *)object_new(NULL, self->arena, memory,
                                         (Py_ssize_t)self->object_size);
    if (object == NULL) {
        arena_leave(self->arena);
        return false;
    }
    object->borrowed = true;
    good = call_with_view(self, object);
    if (count_read(&object->word) < WORD_EXPORT) {
        (void)word_claim(&object->word);
        object_empty(object);
    }
    Py_DECREF(object);
    return good;
}

static struct constructor *constructor_for(struct arena *arena, PyObject *callable,
                                           uint64_t object_size)
{
    struct constructor *self = arena->constructors;

    while (self != NULL &&
           (self->callable != callable || self->object_size != object_size)) {
        self = self->next;
    }
    if (self != NULL) {
        return self;
    }
    self = PyMem_RawCalloc(1, sizeof(*self));
    if (self == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    self->arena = arena;
    self->callable = Py_NewRef(callable);
    self->interpreter = PyInterpreterState_Get();
    self->object_size = object_size;
    self->next = arena->constructors;
    arena->constructors = self;
    return self;
}

/* Bytes that every object starts as: exactly one object's worth. */
static bool take_image(struct arena *arena, PyObject *value, uint64_t object_size,
                       struct us_cache_config *config, Py_buffer *view)
{
    if (PyObject_GetBuffer(value, view, PyBUF_SIMPLE) != 0) {
        return false;
    }
    if ((uint64_t)view->len != object_size) {
        raise_text(arena->state, US_EBADSIZE,
                   "ctor has %zd bytes, expected exactly object_size = %llu", view->len,
                   (unsigned long long)object_size);
        return false;
    }
    config->image = view->buf;
    return true;
}

bool constructor_from(struct arena *arena, PyObject *value, uint64_t object_size,
                      struct us_cache_config *config, Py_buffer *view)
{
    struct constructor *constructor;

    if (value == NULL || value == Py_None) {
        return true;
    }
    if (PyObject_CheckBuffer(value)) {
        return take_image(arena, value, object_size, config, view);
    }
    if (!PyCallable_Check(value)) {
        PyErr_Format(PyExc_TypeError, "ctor must be bytes or a callable, not %.100s",
                     Py_TYPE(value)->tp_name);
        return false;
    }
    if (arena->birth.name[0] != '\0') {
        raise_text(
            arena->state, US_EBADARG,
            "ctor is a callable, but arena '%s' has a name, and other processes "
            "cannot run it: give object_size bytes as ctor, or use an anonymous arena",
            arena->birth.name);
        return false;
    }
    BEGIN_CRITICAL(arena);
    constructor = constructor_for(arena, value, object_size);
    END_CRITICAL;
    if (constructor == NULL) {
        return false;
    }
    config->ctor = construct;
    config->ctor_context = constructor;
    return true;
}

int constructors_traverse(struct arena *arena, visitproc visit, void *arg)
{
    for (struct constructor *it = arena->constructors; it != NULL; it = it->next) {
        Py_VISIT(it->callable);
    }
    return 0;
}

void constructors_forget(struct arena *arena)
{
    for (struct constructor *it = arena->constructors; it != NULL; it = it->next) {
        Py_CLEAR(it->callable);
    }
}

void constructors_free(struct arena *arena)
{
    constructors_forget(arena);
    for (struct constructor *it = arena->constructors; it != NULL; it = it->next) {
        it->arena = NULL;
    }
    arena->constructors = NULL;
}
