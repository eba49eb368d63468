/* SPDX-License-Identifier: MIT */
/*
 * errors.c - from error codes of the engine to the classes of uslub.errors.
 *
 * The classes live in Python, where each says when, why and what next; this table is
 * the only place that knows which code is which class.
 */
#include "binding.h"

#include <errno.h>

static const char *const classes[US_ESYSTEM + 1] = {
    [US_OK] = "Error",
    [US_ENOMEM] = "OutOfMemory",
    [US_EDOUBLEFREE] = "DoubleFree",
    [US_EFOREIGN] = "ForeignAddress",
    [US_EWRONGCACHE] = "WrongCache",
    [US_ENOTOWNER] = "NotOwner",
    [US_EBUSY] = "CacheBusy",
    [US_ECACHEEXISTS] = "CacheExists",
    [US_ENOCACHE] = "CacheNotFound",
    [US_ENOTFOUND] = "ArenaNotFound",
    [US_EEXISTS] = "ArenaExists",
    [US_ELAYOUT] = "LayoutMismatch",
    [US_ECORRUPT] = "CorruptArena",
    [US_ECLOSED] = "ClosedArena",
    [US_EBADNAME] = "BadName",
    [US_EBADSIZE] = "BadSize",
    [US_EBADARG] = "BadArgument",
    [US_ELIMIT] = "LimitReached",
    [US_EOWNERDEAD] = "OwnerDead",
    [US_ELOCKED] = "LockTimeout",
    [US_EPOISONED] = "Poisoned",
    [US_ECTOR] = "ConstructorFailed",
    [US_ESTALE] = "StaleHandle",
    [US_ETIMEDOUT] = "TimedOut",
    [US_EHANGUP] = "ChannelClosed",
    [US_ESYSTEM] = "SystemCallFailed",
};

static const char *const own_classes[OWN_ERRORS] = {
    [OWN_IN_USE] = "ObjectInUse",
    [OWN_FREED] = "ObjectFreed",
};

bool errors_import(struct state *state)
{
    PyObject *module = PyImport_ImportModule("uslub.errors");

    for (int code = US_OK; module != NULL && code <= US_ESYSTEM; code++) {
        state->errors[code] = PyObject_GetAttrString(module, classes[code]);
    }
    for (int which = 0; module != NULL && which < OWN_ERRORS; which++) {
        state->own_errors[which] = PyObject_GetAttrString(module, own_classes[which]);
    }
    Py_XDECREF(module);
    return module != NULL && !PyErr_Occurred();
}

/* What the OSErrors among the classes say in `errno`. */
static int errno_of(us_err code)
{
    switch (code) {
    case US_ENOTFOUND:
        return ENOENT;
    case US_EEXISTS:
        return EEXIST;
    case US_ESYSTEM:
        return us_last_errno();
    default:
        return 0;
    }
}

/* The class decides, the text is one argument: str(error) is exactly the text. */
static PyObject *raise_with(PyObject *class, PyObject *text, int number)
{
    PyObject *error;

    if (class == NULL) {
        class = PyExc_SystemError; /* the interpreter is on its way out */
    }
    error = text == NULL ? NULL : PyObject_CallOneArg(class, text);

    Py_XDECREF(text);
    if (error != NULL && number != 0) {
        PyObject *value = PyLong_FromLong(number);

        if (value == NULL || PyObject_SetAttrString(error, "errno", value) != 0) {
            Py_CLEAR(error);
        }
        Py_XDECREF(value);
    }
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

PyObject *raise_engine(struct state *state, us_err code)
{
    const char *text = us_last_error();
    us_err known = code > US_OK && code <= US_ESYSTEM ? code : US_OK;

    return raise_with(state->errors[known],
                      PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace"),
                      errno_of(known));
}

PyObject *raise_text(struct state *state, us_err code, const char *format, ...)
{
    PyObject *text;
    va_list args;

    va_start(args, format);
    text = PyUnicode_FromFormatV(format, args);
    va_end(args);
    return raise_with(state->errors[code], text, 0);
}

PyObject *raise_own(struct state *state, enum own_error which, const char *format, ...)
{
    PyObject *text;
    va_list args;

    va_start(args, format);
    text = PyUnicode_FromFormatV(format, args);
    va_end(args);
    return raise_with(state->own_errors[which], text, 0);
}

PyObject *raise_closed(struct arena *arena)
{
    if (arena->birth.name[0] == '\0') {
        return raise_text(
            arena->state, US_ECLOSED,
            "the anonymous arena %s is closed: attach to its file descriptor "
            "again",
            arena->id);
    }
    return raise_text(arena->state, US_ECLOSED,
                      "arena '%s' is closed: Arena.attach('%s') opens it again",
                      arena->birth.name, arena->birth.name);
}
