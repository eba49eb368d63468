/* SPDX-License-Identifier: MIT */
/*
 * share.c - objects as bytes that name them, and back.
 *
 * A handle is data: fixed fields, checked on arrival by the binding (sizes, which
 * arena) and by the engine (which object, who holds it). Nothing in it is executed.
 * How it is wrapped for pickle, and how its arena is found, is uslub._wire's.
 */
#include "binding.h"

#include <unistd.h>

struct wire {
    uint8_t id[16];
    uint64_t offset;
    uint32_t incarnation, record, serial;
    uint64_t nbytes;
    /* Where an anonymous arena can be had from, while its sender lives. */
    int32_t pid, fd;
} __attribute__((packed));
#define WIRE_NAMED offsetof(struct wire, pid)

PyObject *wire_of(struct arena *arena, void *data, Py_ssize_t nbytes)
{
    bool named = arena->birth.name[0] != '\0';
    struct wire wire = {.nbytes = (uint64_t)nbytes, .pid = (int32_t)getpid()};
    struct us_ticket ticket;
    us_err code;

    wire.fd = named ? -1 : us_arena_fd(arena->engine);
    code = us_send(arena->engine, data, &ticket);
    if (code != US_OK) {
        return raise_engine(arena->state, code);
    }
    memcpy(wire.id, arena->birth.id, sizeof(wire.id));
    wire.offset = ticket.offset;
    wire.incarnation = ticket.incarnation;
    wire.record = ticket.record;
    wire.serial = ticket.serial;
    return PyBytes_FromStringAndSize((const char *)&wire,
                                     (Py_ssize_t)(named ? WIRE_NAMED : sizeof(wire)));
}

void *wire_receive(struct arena *arena, PyObject *value, Py_ssize_t *nbytes)
{
    struct wire wire = {.nbytes = 0};
    struct us_object_info info;
    struct us_ticket ticket;
    void *data = NULL;
    us_err code;

    if (!PyBytes_Check(value) ||
        (PyBytes_GET_SIZE(value) != (Py_ssize_t)WIRE_NAMED &&
         PyBytes_GET_SIZE(value) != (Py_ssize_t)sizeof(wire))) {
        raise_text(arena->state, US_ESTALE,
                   "not a handle of an object: expected %zu or %zu bytes, got %R",
                   WIRE_NAMED, sizeof(wire), value);
        return NULL;
    }
    memcpy(&wire, PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value));
    if (memcmp(wire.id, arena->birth.id, sizeof(wire.id)) != 0) {
        raise_text(arena->state, US_ESTALE,
                   "a handle of another arena than %R: attach the one it came from",
                   (PyObject *)arena);
        return NULL;
    }
    ticket =
        (struct us_ticket){wire.offset, wire.incarnation, wire.record, wire.serial};
    code = us_receive(arena->engine, &ticket, &data);
    if (code != US_OK) {
        raise_engine(arena->state, code);
        return NULL;
    }
    code = us_object_stat(arena->engine, data, &info);
    if (code != US_OK || wire.nbytes == 0 || wire.nbytes > info.usable) {
        (void)us_kfree(arena->engine, data, -1);
        if (code != US_OK) {
            raise_engine(arena->state, code);
        } else {
            raise_text(arena->state, US_ESTALE,
                       "a handle says %llu bytes, but its object has %llu: it was not "
                       "made by uslub",
                       (unsigned long long)wire.nbytes,
                       (unsigned long long)info.usable);
        }
        return NULL;
    }
    *nbytes = (Py_ssize_t)wire.nbytes;
    return data;
}

PyObject *object_send(PyObject *op, PyObject *unused)
{
    struct object *self = (struct object *)op;
    struct arena *arena = self->arena;
    void *data = pointer_read(&self->data);
    PyObject *wire;

    (void)unused;
    if (data == NULL) {
        return raise_gone(self);
    }
    if (self->borrowed) {
        return raise_text(arena->state, US_ENOTOWNER,
                          "an object under construction cannot be sent");
    }
    if (!arena_enter(arena)) {
        return NULL;
    }
    wire = wire_of(arena, data, self->nbytes);
    arena_leave(arena);
    return wire;
}

PyObject *object_reduce(PyObject *op, PyObject *unused)
{
    PyObject *wire = object_send(op, unused);

    return wire == NULL ? NULL : call_helper("uslub._wire", "reduce_object", op, wire);
}

PyObject *object_around(struct arena *arena, void *data, Py_ssize_t nbytes)
{
    struct us_object_info info;
    char own_name[US_NAME_MAX + 1];
    struct cache *cache = NULL;
    PyObject *object;
    us_err code = us_object_stat(arena->engine, data, &info);

    if (code != US_OK) {
        return raise_engine(arena->state, code);
    }
    if (info.cache != NULL && !(us_cache_brief(info.cache, own_name) & US_KMALLOC)) {
        PyObject *name =
            PyUnicode_DecodeUTF8(own_name, (Py_ssize_t)strlen(own_name), "replace");

        if (name == NULL) {
            return NULL;
        }
        cache = cache_recent(arena, info.cache, name, nbytes);
        if (cache == NULL) {
            cache =
                (struct cache *)cache_wrap(arena, info.cache, name, (uint64_t)nbytes);
        }
        Py_DECREF(name);
        if (cache == NULL) {
            return NULL;
        }
    }
    object = object_new(cache, arena, data, nbytes);
    Py_XDECREF(cache);
    return object;
}

PyObject *arena_receive(PyObject *op, PyObject *wire)
{
    struct arena *self = (struct arena *)op;
    PyObject *object;
    Py_ssize_t nbytes;
    void *data;

    if (!arena_enter(self)) {
        return NULL;
    }
    data = wire_receive(self, wire, &nbytes);
    object = data == NULL ? NULL : object_around(self, data, nbytes);
    if (object == NULL) {
        if (data != NULL) {
            (void)us_kfree(self->engine, data, -1);
        }
        arena_leave(self);
    }
    return object;
}
