/* SPDX-License-Identifier: MIT */
/*
 * channel.c - the hot half of uslub.Channel: send and recv. The rest is Python
 * (uslub.channel).
 *
 * A first attempt is made with the GIL held: it takes less than giving the GIL up.
 * Waiting gives it up, in steps short enough for signals.
 */
#include "binding.h"

#include <stddef.h>
#include <structmember.h>
#include <time.h>

#define STEP_NS 50000000

struct channel {
    PyObject ob_base;
    struct arena *arena; /* strong; a place among its holds */
    us_channel *engine;  /* NULL: released */
    PyObject *numbers;   /* dict: text of a format -> its number */
    PyObject *formats;   /* list by number: what uslub._arrays.parse() made of it */
    PyObject *weakrefs;
};

static int64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- life ---- */

/* `type` is a class in Python; the module is that of a base of it. */
static struct state *state_of(PyTypeObject *type)
{
    while (type != NULL && (!PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE) ||
                            ((PyHeapTypeObject *)type)->ht_module == NULL)) {
        type = type->tp_base;
    }
    return type == NULL ? NULL : PyType_GetModuleState(type);
}

/* Takes over the caller's place in the arena, and `engine`. */
static PyObject *channel_around(PyTypeObject *type, struct arena *arena,
                                us_channel *engine)
{
    struct channel *self = (struct channel *)type->tp_alloc(type, 0);

    if (self == NULL) {
        (void)us_channel_release(engine);
        arena_leave(arena);
        return NULL;
    }
    self->arena = (struct arena *)Py_NewRef((PyObject *)arena);
    self->engine = engine;
    self->numbers = PyDict_New();
    self->formats = PyList_New(0);
    if (self->numbers == NULL || self->formats == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"arena", "capacity", NULL};
    struct state *state;
    struct arena *arena;
    PyObject *arena_value, *capacity_value;
    us_channel *engine;
    int64_t capacity = 0;
    us_err code;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:Channel", names, &arena_value,
                                     &capacity_value)) {
        return NULL;
    }
    state = state_of(type);
    if (state == NULL) {
        return NULL;
    }
    if (Py_TYPE(arena_value) != state->arena_type) {
        PyErr_Format(PyExc_TypeError, "Channel() takes a uslub.Arena, not %.100s",
                     Py_TYPE(arena_value)->tp_name);
        return NULL;
    }
    arena = (struct arena *)arena_value;
    if (capacity_value == Py_None) {
        PyErr_SetString(PyExc_TypeError, "capacity must be an int, not None");
        return NULL;
    }
    if (!convert_int(state, capacity_value, "capacity", 1, 1 << 24, &capacity) ||
        !arena_enter(arena)) {
        return NULL;
    }
    code = us_channel_create(arena->engine, (uint32_t)capacity, &engine);
    if (code != US_OK) {
        arena_leave(arena);
        return raise_engine(state, code);
    }
    return channel_around(type, arena, engine);
}

/* Channel._open(arena, wire): what pickle calls, by way of uslub._wire. */
static PyObject *channel_open(PyObject *type, PyObject *args)
{
    struct state *state = state_of((PyTypeObject *)type);
    PyObject *arena_value, *wire;
    struct arena *arena;
    us_channel *engine;
    Py_ssize_t nbytes;
    us_err code;
    void *data;

    if (state == NULL ||
        !PyArg_ParseTuple(args, "O!O:_open", state->arena_type, &arena_value, &wire)) {
        return NULL;
    }
    arena = (struct arena *)arena_value;
    if (!arena_enter(arena)) {
        return NULL;
    }
    data = wire_receive(arena, wire, &nbytes);
    if (data == NULL) {
        arena_leave(arena);
        return NULL;
    }
    code = us_channel_open(arena->engine, data, &engine);
    if (code != US_OK) {
        raise_engine(state, code);
        (void)us_kfree(arena->engine, data, -1);
        arena_leave(arena);
        return NULL;
    }
    return channel_around((PyTypeObject *)type, arena, engine);
}

static int channel_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct channel *self = (struct channel *)op;

    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->arena);
    Py_VISIT(self->numbers);
    Py_VISIT(self->formats);
    return 0;
}

static void channel_dealloc(PyObject *op)
{
    struct channel *self = (struct channel *)op;
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    if (self->engine != NULL) {
        (void)us_channel_release(self->engine);
        arena_leave(self->arena);
    }
    Py_CLEAR(self->numbers);
    Py_CLEAR(self->formats);
    Py_CLEAR(self->arena);
    type->tp_free(op);
    Py_DECREF(type);
}

/* ---- timeouts ---- */

/* None or NULL: -1, for ever; else nanoseconds. */
static bool convert_timeout(struct state *state, PyObject *value, int64_t *ret)
{
    double seconds;

    *ret = -1;
    if (value == NULL || value == Py_None) {
        return true;
    }
    seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "timeout must be seconds or None, not %.100s",
                         Py_TYPE(value)->tp_name);
        }
        return false;
    }
    if (!(seconds >= 0)) { /* not a number is neither */
        raise_text(
            state, US_EBADARG,
            "timeout is %R seconds; expected 0 or more, or None to wait for ever",
            value);
        return false;
    }
    *ret = seconds > 9e9 ? -1 : (int64_t)(seconds * 1e9);
    return true;
}

static PyObject *raise_timeout(struct channel *self, const char *state_of_it,
                               PyObject *timeout)
{
    return raise_text(self->arena->state, US_ETIMEDOUT,
                      "the channel of %u messages stayed %s for %S seconds",
                      us_channel_capacity(self->engine), state_of_it,
                      timeout == NULL ? Py_None : timeout);
}

typedef us_err (*step_fn)(us_channel *, struct us_message *, int64_t);

static us_err step_send(us_channel *engine, struct us_message *m, int64_t timeout)
{
    return us_channel_send(engine, m, timeout);
}

static us_err step_wait(us_channel *engine, struct us_message *m, int64_t timeout)
{
    (void)m;
    return us_channel_wait(engine, timeout);
}

/* Runs `step` until it succeeds, fails or `timeout` is over. US_ESYSTEM with an
 * exception set: a signal handler raised it. */
static us_err run(struct channel *self, step_fn step, struct us_message *m,
                  int64_t timeout)
{
    us_err code = step(self->engine, m, 0);
    int64_t end;

    if (LIKELY(code != US_ETIMEDOUT) || timeout == 0) {
        return code;
    }
    end = timeout < 0 ? INT64_MAX : now_ns() + timeout;
    while (code == US_ETIMEDOUT) {
        int64_t left = end - now_ns();

        if (left <= 0) {
            return code;
        }
        left = left < STEP_NS ? left : STEP_NS;
        Py_BEGIN_ALLOW_THREADS code = step(self->engine, m, left);
        Py_END_ALLOW_THREADS if (code == US_ETIMEDOUT && PyErr_CheckSignals() != 0)
        {
            return US_ESYSTEM;
        }
    }
    return code;
}

/* A call inside the engine; the Object is the caller's, so is its memory. */
static bool enter(struct channel *self)
{
    return arena_enter(self->arena);
}

/* ---- sending ---- */

/* The number of a format's text. */
static bool number_of(struct channel *self, PyObject *text, uint32_t *ret)
{
    PyObject *known = PyDict_GetItemWithError(self->numbers, text), *number;
    Py_ssize_t length;
    const char *bytes;
    us_err code;
    bool good;

    if (known != NULL) {
        *ret = (uint32_t)PyLong_AsUnsignedLong(known);
        return true;
    }
    bytes = PyErr_Occurred() ? NULL : PyUnicode_AsUTF8AndSize(text, &length);
    if (bytes == NULL) {
        return false;
    }
    if (length > 120) {
        raise_text(self->arena->state, US_EBADARG,
                   "an array that takes %zd bytes to describe (at most 120) cannot be "
                   "sent as it is: send arena.dumps(array)",
                   length);
        return false;
    }
    code = us_channel_format(self->engine, bytes, (uint32_t)length, ret);
    if (code != US_OK) {
        raise_engine(self->arena->state, code);
        return false;
    }
    number = PyLong_FromUnsignedLong(*ret);
    good = number != NULL && PyDict_SetItem(self->numbers, text, number) == 0;
    Py_XDECREF(number);
    return good;
}

/* What to send for `value`; *keep is a new reference to the Object meant. */
static bool message_for(struct channel *self, PyObject *value, struct us_message *ret,
                        PyObject **keep)
{
    struct state *state = self->arena->state;
    PyObject *described = NULL;
    struct object *object;
    bool good = true;

    ret->format = 0;
    *keep = NULL;
    if (LIKELY(Py_TYPE(value) == state->object_type)) {
        *keep = Py_NewRef(value);
    } else {
        described = call_helper("uslub._arrays", "describe", value, NULL);
        if (described == NULL) {
            return false;
        }
        *keep = Py_NewRef(PyTuple_GET_ITEM(described, 0));
        good = number_of(self, PyTuple_GET_ITEM(described, 1), &ret->format);
        Py_DECREF(described);
    }
    object = (struct object *)*keep;
    ret->object = pointer_read(&object->data);
    ret->nbytes = (uint64_t)object->nbytes;
    if (good && ret->object == NULL) {
        raise_gone(object);
        good = false;
    }
    if (good && (object->arena->engine != self->arena->engine || object->borrowed)) {
        raise_text(state, US_EFOREIGN,
                   "%R cannot be sent through a channel of %R: it lives elsewhere; "
                   "copy it into an object of that arena",
                   value, (PyObject *)self->arena);
        good = false;
    }
    if (!good) {
        Py_CLEAR(*keep);
    }
    return good;
}

/* While it waits, no other thread may free the object. */
static us_err send_waiting(struct channel *self, struct us_message *message,
                           struct object *object, int64_t timeout)
{
    us_err code;

    if (!word_export(&object->word)) {
        raise_gone(object);
        return US_ESYSTEM;
    }
    code = run(self, step_send, message, timeout);
    count_add(&object->word, -WORD_EXPORT);
    return code;
}

static us_err send_value(struct channel *self, PyObject *value, int64_t timeout)
{
    struct us_message message;
    PyObject *keep;
    us_err code;

    if (!message_for(self, value, &message, &keep)) {
        return US_ESYSTEM;
    }
    if (!enter(self)) {
        Py_DECREF(keep);
        return US_ESYSTEM;
    }
    code = run(self, step_send, &message, 0);
    if (code == US_ETIMEDOUT && timeout != 0) {
        code = send_waiting(self, &message, (struct object *)keep, timeout);
    }
    arena_leave(self->arena);
    Py_DECREF(keep);
    if (code != US_OK && code != US_ETIMEDOUT && !PyErr_Occurred()) {
        raise_engine(self->arena->state, code);
        return US_ESYSTEM;
    }
    return code;
}

static PyObject *channel_send(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    static const struct parameters expected = {"send", 2, 1, {"obj", "timeout"}};
    struct channel *self = (struct channel *)op;
    PyObject *values[2] = {nargs > 0 ? args[0] : NULL, NULL};
    int64_t timeout = -1;
    us_err code;

    if (nargs != 1 || kwnames != NULL) {
        if (!parse_arguments(&expected, args, nargs, kwnames, values) ||
            !convert_timeout(self->arena->state, values[1], &timeout)) {
            return NULL;
        }
    }
    code = send_value(self, values[0], timeout);
    if (code == US_ETIMEDOUT) {
        return raise_timeout(self, "full", values[1]);
    }
    return code == US_OK ? Py_NewRef(Py_None) : NULL;
}

static PyObject *channel_try_send(PyObject *op, PyObject *value)
{
    us_err code = send_value((struct channel *)op, value, 0);

    return code == US_OK || code == US_ETIMEDOUT ? PyBool_FromLong(code == US_OK)
                                                 : NULL;
}

/* ---- receiving ---- */

/* What uslub._arrays.parse() makes of a format; a new reference. */
static PyObject *format_of(struct channel *self, uint32_t number)
{
    char text[120];
    PyObject *parsed, *string;
    uint32_t length;

    if (number < (size_t)PyList_GET_SIZE(self->formats) &&
        PyList_GET_ITEM(self->formats, number) != Py_None) {
        return Py_NewRef(PyList_GET_ITEM(self->formats, number));
    }
    length = us_channel_format_text(self->engine, number, text);
    string = PyUnicode_DecodeUTF8(text, (Py_ssize_t)length, "replace");
    parsed =
        string == NULL ? NULL : call_helper("uslub._arrays", "parse", string, NULL);
    Py_XDECREF(string);
    while (parsed != NULL && (size_t)PyList_GET_SIZE(self->formats) <= number) {
        if (PyList_Append(self->formats, Py_None) != 0) {
            Py_CLEAR(parsed);
        }
    }
    if (parsed != NULL &&
        PyList_SetItem(self->formats, (Py_ssize_t)number, Py_NewRef(parsed)) != 0) {
        Py_CLEAR(parsed);
    }
    return parsed;
}

/* The message as a Python object. The caller's place in the arena is used up. */
static PyObject *deliver(struct channel *self, const struct us_message *m)
{
    PyObject *object = object_around(self->arena, m->object, (Py_ssize_t)m->nbytes);
    PyObject *format = NULL, *array;

    if (object == NULL) {
        (void)us_kfree(self->arena->engine, m->object, -1);
        arena_leave(self->arena);
        return NULL;
    }
    if (LIKELY(m->format == 0)) {
        return object;
    }
    BEGIN_CRITICAL(self);
    format = format_of(self, m->format);
    END_CRITICAL;
    array =
        format == NULL ? NULL : call_helper("uslub._arrays", "rebuild", object, format);
    Py_DECREF(object);
    return array;
}

/* NULL without an exception: timed out. */
static PyObject *receive(struct channel *self, int64_t timeout)
{
    struct us_message m;
    us_err code;

    if (!enter(self)) {
        return NULL;
    }
    code = run(self, us_channel_receive, &m, timeout);
    if (LIKELY(code == US_OK)) {
        return deliver(self, &m);
    }
    arena_leave(self->arena);
    if (code != US_ETIMEDOUT && !PyErr_Occurred()) {
        raise_engine(self->arena->state, code);
    }
    return NULL;
}

static PyObject *channel_recv(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    static const struct parameters expected = {"recv", 1, 0, {"timeout"}};
    struct channel *self = (struct channel *)op;
    PyObject *value = NULL, *message;
    int64_t timeout = -1;

    if (nargs != 0 || kwnames != NULL) {
        if (!parse_arguments(&expected, args, nargs, kwnames, &value) ||
            !convert_timeout(self->arena->state, value, &timeout)) {
            return NULL;
        }
    }
    message = receive(self, timeout);
    if (message == NULL && !PyErr_Occurred()) {
        return raise_timeout(self, "empty", value);
    }
    return message;
}

static PyObject *channel_try_recv(PyObject *op, PyObject *unused)
{
    PyObject *message = receive((struct channel *)op, 0);

    (void)unused;
    return message == NULL && !PyErr_Occurred() ? Py_NewRef(Py_None) : message;
}

/* _wait(seconds): True if there is something to receive, or the channel is closed. */
static PyObject *channel_wait(PyObject *op, PyObject *value)
{
    struct channel *self = (struct channel *)op;
    int64_t timeout;
    us_err code;

    if (!convert_timeout(self->arena->state, value, &timeout) || !enter(self)) {
        return NULL;
    }
    code = run(self, step_wait, NULL, timeout);
    arena_leave(self->arena);
    if (code != US_OK && code != US_ETIMEDOUT) {
        return PyErr_Occurred() ? NULL : raise_engine(self->arena->state, code);
    }
    return PyBool_FromLong(code == US_OK);
}

/* ---- small calls ---- */

static PyObject *channel_close(PyObject *op, PyObject *unused)
{
    (void)unused;
    us_channel_close(((struct channel *)op)->engine);
    Py_RETURN_NONE;
}

static PyObject *channel_send_handle(PyObject *op, PyObject *unused)
{
    struct channel *self = (struct channel *)op;
    PyObject *wire;

    (void)unused;
    if (!enter(self)) {
        return NULL;
    }
    wire = wire_of(self->arena, us_channel_object(self->engine),
                   (Py_ssize_t)sizeof(uint64_t));
    arena_leave(self->arena);
    return wire;
}

static Py_ssize_t channel_length(PyObject *op)
{
    return us_channel_length(((struct channel *)op)->engine);
}

static PyObject *get_closed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(us_channel_closed(((struct channel *)op)->engine));
}

static PyObject *get_capacity(PyObject *op, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(us_channel_capacity(((struct channel *)op)->engine));
}

static PyObject *get_arena(PyObject *op, void *unused)
{
    (void)unused;
    return Py_NewRef((PyObject *)((struct channel *)op)->arena);
}

/* ---- type ---- */

static PyMethodDef channel_methods[] = {
    {"send", (PyCFunction)(void (*)(void))channel_send, METH_FASTCALL | METH_KEYWORDS,
     "send($self, obj, timeout=None)\n--\n\nShare an object with whoever receives it."},
    {"try_send", channel_try_send, METH_O,
     "try_send($self, obj, /)\n--\n\nThe same if there is room now; whether there was."},
    {"recv", (PyCFunction)(void (*)(void))channel_recv, METH_FASTCALL | METH_KEYWORDS,
     "recv($self, timeout=None)\n--\n\nThe oldest message."},
    {"try_recv", channel_try_recv, METH_NOARGS,
     "try_recv($self, /)\n--\n\nThe same, or None if there is none now."},
    {"close", channel_close, METH_NOARGS,
     "close($self, /)\n--\n\nNo more messages; what is in it may still be received."},
    {"_wait", channel_wait, METH_O, "_wait($self, timeout, /)\n--\n\n"},
    {"_send_handle", channel_send_handle, METH_NOARGS,
     "_send_handle($self, /)\n--\n\n"},
    {"_open", channel_open, METH_CLASS | METH_VARARGS,
     "_open($type, arena, wire, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef channel_getset[] = {
    {"closed", get_closed, NULL, NULL, NULL},
    {"capacity", get_capacity, NULL, "Messages that fit.", NULL},
    {"arena", get_arena, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef channel_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct channel, weakrefs), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_new, channel_new},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_traverse, channel_traverse},
    {Py_tp_methods, channel_methods},
    {Py_tp_members, channel_members},
    {Py_tp_getset, channel_getset},
    {Py_sq_length, channel_length},
    {Py_tp_doc, "What uslub.Channel is made of."},
    {0, NULL},
};

PyType_Spec channel_spec = {
    .name = "uslub._engine.ChannelBase",
    .basicsize = sizeof(struct channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = channel_slots,
};
