/* SPDX-License-Identifier: MIT */
/*
 * probe.c - Probe: methods that are called exactly as those of Object, and report how
 * many references there were. uslub._references checks its reading of bytecode with it.
 */
#include "binding.h"

#include <stddef.h>
#include <structmember.h>

struct probe {
    PyObject_HEAD PyObject *reader; /* what held_by_call() asks, handed in */
    PyObject *seen;                 /* what __exit__() measured */
};

/* (references, what the reader says of the caller's code) */
static PyObject *measure(PyObject *op, const char *action)
{
    Py_ssize_t references = Py_REFCNT(op);
    PyFrameObject *top = PyThreadState_GetFrame(PyThreadState_Get());
    PyObject *held =
        PyObject_CallFunction(((struct probe *)op)->reader, "Os",
                              top == NULL ? Py_None : (PyObject *)top, action);

    Py_XDECREF(top);
    return held == NULL ? NULL : Py_BuildValue("nN", references, held);
}

static PyObject *probe_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *reader;
    struct probe *self;

    (void)kwargs;
    if (!PyArg_ParseTuple(args, "O", &reader)) {
        return NULL;
    }
    self = (struct probe *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->reader = Py_NewRef(reader);
    }
    return (PyObject *)self;
}

static PyObject *probe_free(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames)
{
    (void)args;
    (void)nargs;
    (void)kwnames;
    return measure(op, "free");
}

static PyObject *probe_enter(PyObject *op, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(op);
}

static PyObject *probe_exit(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *seen = measure(op, "__exit__");

    (void)args;
    (void)nargs;
    if (seen == NULL) {
        return NULL;
    }
    Py_XSETREF(((struct probe *)op)->seen, seen);
    Py_RETURN_NONE;
}

static PyMethodDef probe_methods[] = {
    {"free", (PyCFunction)(void (*)(void))probe_free, METH_FASTCALL | METH_KEYWORDS,
     NULL},
    {"__enter__", probe_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))probe_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef probe_members[] = {
    {"seen", T_OBJECT_EX, offsetof(struct probe, seen), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static void probe_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    Py_XDECREF(((struct probe *)op)->reader);
    Py_XDECREF(((struct probe *)op)->seen);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot probe_slots[] = {
    {Py_tp_new, probe_new},
    {Py_tp_dealloc, probe_dealloc},
    {Py_tp_methods, probe_methods},
    {Py_tp_members, probe_members},
    {Py_tp_doc, "Measures its own references during a call, for uslub._references."},
    {0, NULL},
};

PyType_Spec probe_spec = {
    .name = "uslub._engine.Probe",
    .basicsize = sizeof(struct probe),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = probe_slots,
};
