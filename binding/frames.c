/* SPDX-License-Identifier: MIT */
/*
 * frames.c - how each version of CPython shows its frames and containers.
 *
 * Up to 3.11 a frame's variables can only be seen through f_locals, a dictionary that
 * the frame keeps; what it was filled with is taken out again, so that looking keeps
 * nothing alive. From 3.12 on PyFrame_GetVar() reads them where they are.
 */
#include "references.h"

Py_ssize_t held_by_call(PyFrameObject *top, const char *action)
{
    PyObject *held, *name;
    Py_ssize_t count;

    if (top == NULL) {
        return 0;
    }
    name = PyUnicode_FromString(action);
    held = name == NULL ? NULL
                        : call_helper("uslub._references", "held_by_call",
                                      (PyObject *)top, name);
    if (held == NULL) {
        return -1;
    }
    count = PyLong_AsSsize_t(held);
    Py_DECREF(held);
    return count;
}

/* ---- variables ---- */

static PyObject *code_names(PyCodeObject *code, const char *attribute)
{
    PyObject *names = PyObject_GetAttrString((PyObject *)code, attribute);

    if (names == NULL) {
        PyErr_Clear();
        names = PyTuple_New(0);
    }
    return names;
}

static bool among(PyObject *names, PyObject *name)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        if (PyTuple_GET_ITEM(names, i) == name) {
            return true; /* names of one code object are interned */
        }
    }
    return false;
}

#if PY_VERSION_HEX >= 0x030c0000

static void each_variable(PyFrameObject *frame, PyObject *names, PyObject *cells,
                          void (*take)(PyObject *value, void *arg), void *arg)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        PyObject *value = among(cells, name) ? NULL : PyFrame_GetVar(frame, name);

        if (value != NULL) {
            take(value, arg);
            Py_DECREF(value);
        } else {
            PyErr_Clear(); /* has no value now */
        }
    }
}

#else

static void take_out(PyObject *locals, PyObject *names)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        if (PyDict_DelItem(locals, PyTuple_GET_ITEM(names, i)) != 0) {
            PyErr_Clear();
        }
    }
}

static void each_variable(PyFrameObject *frame, PyObject *names, PyObject *cells,
                          void (*take)(PyObject *value, void *arg), void *arg)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *locals;

    if ((code->co_flags & CO_OPTIMIZED) == 0) {
        Py_DECREF(code);
        return; /* a dictionary like others */
    }
    locals = PyObject_GetAttrString((PyObject *)frame, "f_locals");
    if (locals == NULL || !PyDict_CheckExact(locals)) {
        PyErr_Clear();
        Py_XDECREF(locals);
        Py_DECREF(code);
        return;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        PyObject *value = among(cells, name) ? NULL : PyDict_GetItem(locals, name);

        if (value != NULL) {
            take(value, arg);
        }
    }
    if (Py_REFCNT(locals) == 2) { /* the frame's and ours: nobody else wants it */
        PyObject *outer = code_names(code, "co_freevars");

        take_out(locals, names);
        take_out(locals, cells);
        take_out(locals, outer);
        Py_DECREF(outer);
    }
    Py_DECREF(locals);
    Py_DECREF(code);
}

#endif

void frame_variables(PyFrameObject *frame, void (*take)(PyObject *value, void *arg),
                     void *arg)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *names = code_names(code, "co_varnames");
    PyObject *cells = code_names(code, "co_cellvars");

    if (names != NULL && cells != NULL) {
        each_variable(frame, names, cells, take, arg);
    }
    PyErr_Clear();
    Py_XDECREF(names);
    Py_XDECREF(cells);
    Py_DECREF(code);
}

static void take_count(PyObject *value, void *arg)
{
    struct count *count = arg;

    count->found += value == count->object;
}

Py_ssize_t frame_count(PyFrameObject *frame, PyObject *object)
{
    struct count count = {.object = object};

    frame_variables(frame, take_count, &count);
    return count.found;
}

PyObject *frame_globals(PyFrameObject *frame)
{
    PyObject *globals = PyObject_GetAttrString((PyObject *)frame, "f_globals");

    if (globals == NULL || !PyDict_CheckExact(globals)) {
        PyErr_Clear();
        Py_CLEAR(globals);
    }
    return globals;
}

/* ---- threads, the collector ---- */

static PyObject *call_named(const char *module, const char *function,
                            PyObject *argument)
{
    PyObject *imported = PyImport_ImportModule(module), *callable, *result = NULL;

    callable = imported == NULL ? NULL : PyObject_GetAttrString(imported, function);
    if (callable != NULL) {
        result = PyObject_CallFunctionObjArgs(callable, argument, NULL);
    }
    Py_XDECREF(callable);
    Py_XDECREF(imported);
    return result;
}

PyObject *current_frames(void)
{
    return call_named("sys", "_current_frames", NULL);
}

PyObject *find_referrers(PyObject *object)
{
    return call_named("gc", "get_referrers", object);
}

/* ---- kinds of containers ---- */

bool is_running(PyObject *referrer)
{
    const char *attribute;
    PyObject *running;
    bool yes;

    if (PyGen_CheckExact(referrer)) {
        attribute = "gi_running";
    } else if (PyCoro_CheckExact(referrer)) {
        attribute = "cr_running";
    } else if (PyAsyncGen_CheckExact(referrer)) {
        attribute = "ag_running";
    } else {
        return false;
    }
    running = PyObject_GetAttrString(referrer, attribute);
    yes = running != Py_False; /* in doubt: yes */
    PyErr_Clear();
    Py_XDECREF(running);
    return yes;
}

static bool of_standard_library(struct state *state, PyTypeObject *type)
{
    static const char *const may_be_views[] = {"ctypes", "_ctypes", "array", "mmap"};
    PyObject *module;
    bool known;

    if (type == &PyCapsule_Type || type == &PyMemoryView_Type) {
        return false;
    }
    module = PyObject_GetAttrString((PyObject *)type, "__module__");
    known = module != NULL && PyUnicode_Check(module) && state->stdlib != NULL &&
            PySet_Contains(state->stdlib, module) == 1;
    for (size_t i = 0; known && i < sizeof(may_be_views) / sizeof(may_be_views[0]);
         i++) {
        known = PyUnicode_CompareWithASCIIString(module, may_be_views[i]) != 0;
    }
    PyErr_Clear();
    Py_XDECREF(module);
    return known;
}

/* The traverse function that every class statement gives its instances. */
static traverseproc python_traverse(struct state *state)
{
    return ((PyTypeObject *)state->errors[US_OK])->tp_traverse;
}

bool is_python_instance(struct state *state, PyObject *value)
{
    traverseproc python = python_traverse(state);
    PyTypeObject *type = Py_TYPE(value);

    if (type->tp_traverse != python) {
        return false;
    }
    while (type != NULL && type->tp_traverse == python) {
        type = type->tp_base;
    }
    return type == NULL || type == &PyBaseObject_Type ||
           of_standard_library(state, type);
}

bool is_known_container(struct state *state, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);

    if (type->tp_traverse == python_traverse(state)) {
        return is_python_instance(state, value);
    }
    return of_standard_library(state, type);
}
