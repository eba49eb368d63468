/* SPDX-License-Identifier: MIT */
/*
 * references.h - between references.c, which counts, and frames.c, which knows how each
 * version of CPython shows its frames.
 */
#ifndef USLUB_BINDING_REFERENCES_H
#define USLUB_BINDING_REFERENCES_H

#include "binding.h"

#include <frameobject.h>

struct count {
    PyObject *object;
    struct state *state;
    Py_ssize_t found;
};

struct account {
    struct count count;
    PyObject *const *containers;
    PyObject *frames; /* list: those whose variables were counted */
    Py_ssize_t call;  /* references that the call itself holds */
    Py_ssize_t variables;
    bool held; /* something exists through which the call may hold the object */
};

/* From CPython 3.14 the call may borrow from a variable of the caller. */
#define CALL_UNLESS_LOCAL 2

/* What uslub._references says of the caller's bytecode; negative: an exception. */
Py_ssize_t held_by_call(PyFrameObject *top, const char *action);

/* Local variables of a running frame; no cells, and nothing of a module or class body.
 */
void frame_variables(PyFrameObject *frame, void (*take)(PyObject *value, void *arg),
                     void *arg);
Py_ssize_t frame_count(PyFrameObject *frame, PyObject *object);
/* A new reference. */
PyObject *frame_globals(PyFrameObject *frame);

/* {thread: its innermost frame}, and the list of what refers to `object`. New
 * references. */
PyObject *current_frames(void);
PyObject *find_referrers(PyObject *object);

/* A frame or generator that runs now. */
bool is_running(PyObject *referrer);
/* An instance of a class written in Python, on top of nothing that hides references. */
bool is_python_instance(struct state *state, PyObject *value);
/* Something that only holds: of the standard library, or is_python_instance(). */
bool is_known_container(struct state *state, PyObject *value);

#endif
