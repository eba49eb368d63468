/* SPDX-License-Identifier: MIT */
/*
 * references.c - may an object's memory go while Python references to the object exist?
 *
 * Some views keep a mere reference, no buffer export (torch.frombuffer,
 * np.ndarray(buffer=)). So free() explains every reference: variables of running
 * frames, places in containers that the cycle collector knows, and what the call itself
 * holds. One that is left over may be such a view, and free() refuses. Only what is
 * certain is counted, and nothing twice: the error is always on the side of refusing.
 * Cheap explanations come first:
 *
 *   1. the call and the caller's variables          2. the variables of its callers
 *   3. containers in those variables                4. the collector's whole heap, all
 * threads
 *
 * With a GIL nothing here runs Python code once counting has begun, so what is counted
 * stays true. Without one only 1 and 2 are tried: those references belong to this
 * thread.
 *
 * What the call holds depends on the caller's bytecode; uslub._references reads that.
 */
#include "references.h"

static int visit_count(PyObject *found, void *arg)
{
    struct count *count = arg;

    count->found += found == count->object;
    return 0;
}

/* Adds how often `container` refers to the object. */
static void count_in(struct count *count, PyObject *container)
{
    traverseproc traverse = Py_TYPE(container)->tp_traverse;

    if (traverse != NULL) {
        (void)traverse(container, visit_count, count);
    }
}

/* ---- 3: containers within sight ---- */

static bool is_plain(PyObject *value, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(value);

    if (type == &PyTuple_Type) {
        /* What begins with the object may be arguments of the call: see by_holder(). */
        return PyTuple_GET_SIZE(value) == 0 || PyTuple_GET_ITEM(value, 0) != object;
    }
    return type == &PyList_Type || type == &PyDict_Type || type == &PySet_Type ||
           type == &PyFrozenSet_Type;
}

#define NEAR_MAX 256
struct near {
    struct count count;
    PyObject *seen[NEAR_MAX]; /* borrowed: nothing dies while we count */
    int seen_count;
};

static bool first_time(struct near *near, PyObject *container)
{
    for (int i = 0; i < near->seen_count; i++) {
        if (near->seen[i] == container) {
            return false;
        }
    }
    if (near->seen_count == NEAR_MAX) {
        return false; /* what is not counted is not explained */
    }
    near->seen[near->seen_count++] = container;
    return true;
}

static int visit_attribute(PyObject *value, void *arg)
{
    struct near *near = arg;

    near->count.found += value == near->count.object;
    if (is_plain(value, near->count.object) && first_time(near, value)) {
        count_in(&near->count, value);
    }
    return 0;
}

/* A variable's value: a container, or an instance with containers as attributes. */
static void look_near(struct near *near, PyObject *value)
{
    if (is_plain(value, near->count.object)) {
        if (first_time(near, value)) {
            count_in(&near->count, value);
        }
    } else if (is_python_instance(near->count.state, value) &&
               first_time(near, value)) {
        (void)Py_TYPE(value)->tp_traverse(value, visit_attribute, near);
    }
}

static void look_near_value(PyObject *value, void *arg)
{
    look_near(arg, value);
}

static Py_ssize_t count_near(struct account *a)
{
    struct near near = {.count = a->count};

    near.count.found = 0;
    for (int i = 0; a->containers != NULL && a->containers[i] != NULL; i++) {
        look_near(&near, a->containers[i]);
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(a->frames); i++) {
        PyFrameObject *frame = (PyFrameObject *)PyList_GET_ITEM(a->frames, i);
        PyObject *globals = frame_globals(frame);

        frame_variables(frame, look_near_value, &near);
        if (globals != NULL && first_time(&near, globals)) {
            (void)PyDict_Type.tp_traverse(globals, visit_attribute, &near);
        }
        Py_XDECREF(globals);
    }
    return near.count.found;
}

/* ---- 4: everything that the collector knows ---- */

/*
 * Does something that can be called, such as functools.partial, keep `tuple`?
 * (Functions do keep their defaults, but do not call with them.) 1, 0, -1.
 */
static int kept_by_callable(PyObject *tuple)
{
    PyObject *keepers = find_referrers(tuple);
    int kept = 0;

    if (keepers == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; kept == 0 && i < PyList_GET_SIZE(keepers); i++) {
        PyObject *keeper = PyList_GET_ITEM(keepers, i);

        kept = PyCallable_Check(keeper) && !PyFunction_Check(keeper);
    }
    Py_DECREF(keepers);
    return kept;
}

/*
 * Can it be that the call reached us through `holder`, and holds no reference of its
 * own? A bound method is one, and so are the arguments that a callable keeps. 1, 0, -1.
 */
static int by_holder(PyObject *holder, PyObject *object)
{
    if (PyCFunction_CheckExact(holder)) {
        return PyCFunction_GET_SELF(holder) == object;
    }
    if (PyMethod_Check(holder)) {
        return PyMethod_GET_SELF(holder) == object;
    }
    if (PyTuple_CheckExact(holder) && PyTuple_GET_ITEM(holder, 0) == object) {
        return kept_by_callable(holder); /* it refers to something: it is not empty */
    }
    return 0;
}

static bool is_walked(struct account *a, PyObject *referrer)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(a->frames); i++) {
        if (PyList_GET_ITEM(a->frames, i) == referrer) {
            return true;
        }
    }
    return false;
}

static int count_everywhere(struct account *a)
{
    PyObject *referrers = find_referrers(a->count.object);

    if (referrers == NULL) {
        return -1;
    }
    a->count.found = 0;
    a->held = false;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(referrers); i++) {
        PyObject *referrer = PyList_GET_ITEM(referrers, i);

        if (is_walked(a, referrer) || is_running(referrer)) {
            continue; /* its variables were counted */
        }
        if (!a->held) {
            int held = by_holder(referrer, a->count.object);

            if (held < 0) {
                Py_DECREF(referrers);
                return -1;
            }
            a->held = held > 0;
        }
        if (is_known_container(a->count.state, referrer)) {
            count_in(&a->count, referrer);
        }
    }
    Py_DECREF(referrers);
    return 0;
}

/* ---- all of it ---- */

/* Appends `frame` and its callers; adds their variables that are the object. */
static int walk(struct account *a, PyFrameObject *frame, bool stop_early)
{
    Py_INCREF(frame);
    while (frame != NULL) {
        PyFrameObject *back;

        if (PyList_Append(a->frames, (PyObject *)frame) != 0) {
            Py_DECREF(frame);
            return -1;
        }
        a->variables += frame_count(frame, a->count.object);
        if (PyList_GET_SIZE(a->frames) == 1 && a->call == CALL_UNLESS_LOCAL) {
            a->call = a->variables == 0;
        }
        if (stop_early && Py_REFCNT(a->count.object) <= a->call + a->variables) {
            Py_DECREF(frame);
            return 1;
        }
        back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    return 0;
}

static int walk_other_threads(struct account *a)
{
    PyObject *frames = current_frames(), *frame;
    Py_ssize_t position = 0;
    int walked = 0;

    if (frames == NULL) {
        return -1;
    }
    while (walked == 0 && PyDict_Next(frames, &position, NULL, &frame)) {
        if (frame != Py_None && !is_walked(a, frame)) {
            walked = walk(a, (PyFrameObject *)frame, false);
        }
    }
    Py_DECREF(frames);
    return walked;
}

static int explain(struct account *a, PyFrameObject *top, Py_ssize_t *ret)
{
    Py_ssize_t explained;
    int found = top == NULL ? 0 : walk(a, top, true);

    if (found != 0) {
        return found;
    }
    explained = a->call + a->variables;
#ifndef Py_GIL_DISABLED
    if (Py_REFCNT(a->count.object) <= explained + count_near(a)) {
        return 1;
    }
    if (walk_other_threads(a) != 0 || count_everywhere(a) != 0) {
        return -1;
    }
    explained = (a->held ? 0 : a->call) + a->variables + a->count.found;
#endif
    *ret = Py_REFCNT(a->count.object) - explained;
    return *ret <= 0;
}

int references_explained(PyObject *object, const char *action,
                         PyObject *const *containers, Py_ssize_t *ret)
{
    struct account a = {
        .count = {.object = object, .state = ((struct object *)object)->arena->state},
        .containers = containers,
    };
    PyFrameObject *top;
    int enabled, explained = -1;

    if (Py_REFCNT(object) == 1) {
        return 1; /* the caller's own */
    }
    top = PyThreadState_GetFrame(PyThreadState_Get());
    a.call = held_by_call(top, action);
    a.frames = a.call < 0 ? NULL : PyList_New(0);
    if (a.frames != NULL) {
        enabled = PyGC_Disable(); /* a collection could run Python code */
        explained = explain(&a, top, ret);
        if (enabled) {
            (void)PyGC_Enable();
        }
    }
    Py_XDECREF(a.frames);
    Py_XDECREF(top);
    return explained;
}
