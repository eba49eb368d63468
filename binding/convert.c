/* SPDX-License-Identifier: MIT */
/*
 * convert.c - from Python arguments to C values, with a clear word when they make no
 * sense.
 *
 * A wrong type is a TypeError; a wrong value is BadSize, BadArgument or BadName.
 * Nothing here knows an arena.
 */
#include "binding.h"

#include <limits.h>

/* ---- parameters ---- */

static Py_ssize_t count_names(const struct parameters *expected)
{
    Py_ssize_t count = 0;

    while (expected->names[count] != NULL) {
        count++;
    }
    return count;
}

static bool take_keyword(const struct parameters *expected, PyObject *name,
                         PyObject *value, PyObject **out)
{
    for (int i = 0; expected->names[i] != NULL; i++) {
        if (PyUnicode_CompareWithASCIIString(name, expected->names[i]) != 0) {
            continue;
        }
        if (out[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'",
                         expected->function, name);
            return false;
        }
        out[i] = value;
        return true;
    }
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'",
                 expected->function, name);
    return false;
}

bool parse_arguments(const struct parameters *expected, PyObject *const *args,
                     Py_ssize_t nargs, PyObject *kwnames, PyObject **out)
{
    Py_ssize_t total = count_names(expected);
    Py_ssize_t keywords = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);

    if (nargs > expected->positional) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes at most %d positional argument%s, %zd were given",
                     expected->function, expected->positional,
                     expected->positional == 1 ? "" : "s", nargs);
        return false;
    }
    for (Py_ssize_t i = 0; i < total; i++) {
        out[i] = i < nargs ? args[i] : NULL;
    }
    for (Py_ssize_t i = 0; i < keywords; i++) {
        if (!take_keyword(expected, PyTuple_GET_ITEM(kwnames, i), args[nargs + i],
                          out)) {
            return false;
        }
    }
    for (int i = 0; i < expected->required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() is missing its argument '%s'",
                         expected->function, expected->names[i]);
            return false;
        }
    }
    return true;
}

/* ---- sizes ---- */

/* 1024^power of "K", "KiB", ...; 1000^power of "KB"; 0: no such unit. */
static uint64_t unit_factor(const char *unit)
{
    static const char letters[] = "KMGT";
    uint64_t factor = 1, base = 1024;
    const char *place;

    if (unit[0] == '\0' || strcmp(unit, "B") == 0) {
        return 1;
    }
    place = strchr(letters, unit[0] == 'k' ? 'K' : unit[0]);
    if (place == NULL || *place == '\0') {
        return 0;
    }
    if (strcmp(unit + 1, "B") == 0) {
        base = 1000;
    } else if (unit[1] != '\0' && strcmp(unit + 1, "iB") != 0) {
        return 0;
    }
    for (const char *letter = letters; letter <= place; letter++) {
        factor *= base;
    }
    return factor;
}

/* Digits, perhaps a fraction, perhaps spaces, a unit. False: not of this form. */
static bool read_size(const char *text, uint64_t *ret)
{
    uint64_t whole = 0, fraction = 0, scale = 1, factor, part;
    const char *at = text;

    for (; *at >= '0' && *at <= '9'; at++) {
        if (__builtin_mul_overflow(whole, 10u, &whole) ||
            __builtin_add_overflow(whole, (uint64_t)(*at - '0'), &whole)) {
            return false;
        }
    }
    if (at == text) {
        return false;
    }
    if (*at == '.') {
        const char *first = ++at;

        for (; *at >= '0' && *at <= '9' && at - first < 6; at++) {
            fraction = fraction * 10 + (uint64_t)(*at - '0');
            scale *= 10;
        }
        if (at == first) {
            return false;
        }
    }
    while (*at == ' ') {
        at++;
    }
    factor = unit_factor(at);
    if (factor == 0 || (scale > 1 && factor == 1) ||
        __builtin_mul_overflow(whole, factor, &whole)) {
        return false;
    }
    /* scale is at most 10^6 and factor below 2^41: the product fits. */
    part = fraction * factor / scale;
    return !__builtin_add_overflow(whole, part, ret) && *ret <= INT64_MAX;
}

static bool size_from_text(struct state *state, PyObject *value, const char *what,
                           uint64_t *ret)
{
    const char *text = PyUnicode_AsUTF8(value);

    if (text == NULL) {
        return false;
    }
    if (!read_size(text, ret)) {
        raise_text(state, US_EBADSIZE,
                   "%s is %R, expected bytes, or a number with a unit such as '512M', "
                   "'64KiB' or '1GiB' (at most 8 EiB)",
                   what, value);
        return false;
    }
    return true;
}

bool convert_size(struct state *state, PyObject *value, const char *what, uint64_t *ret)
{
    PyObject *number;
    long long size;
    int overflow;

    if (value == NULL || value == Py_None) {
        return true;
    }
    if (LIKELY(PyLong_CheckExact(value))) {
        size = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (LIKELY(overflow == 0 && size >= 0)) {
            *ret = (uint64_t)size;
            return true;
        }
    }
    if (PyUnicode_Check(value)) {
        return size_from_text(state, value, what, ret);
    }
    if (!PyIndex_Check(value)) {
        PyErr_Format(PyExc_TypeError,
                     "%s must be an int or text such as '1GiB', not %.100s", what,
                     Py_TYPE(value)->tp_name);
        return false;
    }
    number = PyNumber_Index(value);
    if (number == NULL) {
        return false;
    }
    size = PyLong_AsLongLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (overflow > 0) {
        raise_text(state, US_EBADSIZE, "%s is larger than 8 EiB: no arena holds that",
                   what);
        return false;
    }
    if (overflow < 0 || size < 0) {
        if (!PyErr_Occurred()) {
            raise_text(state, US_EBADSIZE, "%s is negative: expected 0 or more", what);
        }
        return false;
    }
    *ret = (uint64_t)size;
    return true;
}

bool convert_size_positive(struct state *state, PyObject *value, const char *what,
                           uint64_t *ret)
{
    *ret = 0;
    if (value == Py_None) {
        PyErr_Format(PyExc_TypeError,
                     "%s must be an int or text such as '1GiB', not None", what);
        return false;
    }
    if (!convert_size(state, value, what, ret)) {
        return false;
    }
    if (*ret == 0) {
        raise_text(state, US_EBADSIZE, "%s is 0: expected 1 byte or more", what);
        return false;
    }
    return true;
}

/* ---- numbers, flags, names ---- */

bool convert_int(struct state *state, PyObject *value, const char *what, int64_t low,
                 int64_t high, int64_t *ret)
{
    PyObject *number;
    long long found;
    int overflow;

    if (value == NULL || value == Py_None) {
        return true;
    }
    number = PyNumber_Index(value);
    if (number == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "%s must be an int, not %.100s", what,
                         Py_TYPE(value)->tp_name);
        }
        return false;
    }
    found = PyLong_AsLongLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (found == -1 && PyErr_Occurred()) {
        return false;
    }
    if (overflow != 0 || found < low || found > high) {
        raise_text(state, US_EBADARG, "%s is %R, expected %lld to %lld", what, value,
                   (long long)low, (long long)high);
        return false;
    }
    *ret = found;
    return true;
}

bool convert_cpu(struct state *state, PyObject *value, const char *what, int *ret)
{
    int64_t number = -1;

    if (!convert_int(state, value, what, 0, INT_MAX, &number)) {
        return false;
    }
    *ret = (int)number;
    return true;
}

bool convert_bool(PyObject *value, bool *ret)
{
    int truth = value == NULL ? 0 : PyObject_IsTrue(value);

    *ret = truth > 0;
    return truth >= 0;
}

const char *convert_name(struct state *state, PyObject *value, const char *what)
{
    Py_ssize_t length;
    const char *text;

    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s must be a str, not %.100s", what,
                     Py_TYPE(value)->tp_name);
        return NULL;
    }
    text = PyUnicode_AsUTF8AndSize(value, &length);
    if (text == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            PyErr_Clear();
            raise_text(state, US_EBADNAME, "%s %R cannot be written as UTF-8", what,
                       value);
        }
        return NULL;
    }
    if (strlen(text) != (size_t)length) {
        raise_text(state, US_EBADNAME, "%s %R has a NUL character", what, value);
        return NULL;
    }
    return text;
}
