/* SPDX-License-Identifier: MIT */
/*
 * attributes.c - what an Object knows about itself.
 *
 * Asked from the engine each time: an Object carries only what alloc() and free() need.
 * All of it works after arena.close(), as long as the Object has its memory.
 */
#include "binding.h"

/* Everything about the object, or an exception. */
static bool look_up(PyObject *op, struct us_object_info *ret)
{
    struct object *self = (struct object *)op;
    void *data = pointer_read(&self->data);
    us_err code;

    if (data == NULL) {
        raise_gone(self);
        return false;
    }
    code = us_object_stat(self->arena->engine, data, ret);
    if (code != US_OK) {
        raise_engine(self->arena->state, code);
        return false;
    }
    return true;
}

static PyObject *get_offset(PyObject *op, void *unused)
{
    struct object *self = (struct object *)op;
    void *data = pointer_read(&self->data);

    (void)unused;
    if (data == NULL) {
        return raise_gone(self);
    }
    return PyLong_FromUnsignedLongLong(us_offset(self->arena->engine, data));
}

static PyObject *get_address(PyObject *op, void *unused)
{
    struct object *self = (struct object *)op;
    void *data = pointer_read(&self->data);

    (void)unused;
    return data == NULL ? raise_gone(self) : PyLong_FromVoidPtr(data);
}

static PyObject *get_page(PyObject *op, void *unused)
{
    struct us_object_info info;

    (void)unused;
    return look_up(op, &info) ? PyLong_FromUnsignedLong(info.page) : NULL;
}

static PyObject *get_slab(PyObject *op, void *unused)
{
    struct us_object_info info;

    (void)unused;
    return look_up(op, &info) ? PyLong_FromUnsignedLong(info.slab) : NULL;
}

static PyObject *get_index(PyObject *op, void *unused)
{
    struct us_object_info info;

    (void)unused;
    return look_up(op, &info) ? PyLong_FromUnsignedLong(info.index) : NULL;
}

static PyObject *get_node(PyObject *op, void *unused)
{
    struct us_object_info info;

    (void)unused;
    return look_up(op, &info) ? PyLong_FromUnsignedLong(info.node) : NULL;
}

static PyObject *get_usable_size(PyObject *op, void *unused)
{
    struct us_object_info info;

    (void)unused;
    return look_up(op, &info) ? PyLong_FromUnsignedLongLong(info.usable) : NULL;
}

static PyObject *get_cache(PyObject *op, void *unused)
{
    struct object *self = (struct object *)op;
    struct us_object_info info;

    (void)unused;
    if (self->cache != NULL) {
        return Py_NewRef((PyObject *)self->cache);
    }
    if (!look_up(op, &info)) {
        return NULL;
    }
    if (info.cache == NULL) {
        Py_RETURN_NONE;
    }
    return cache_wrap(self->arena, info.cache, NULL, 0);
}

static PyObject *get_arena(PyObject *op, void *unused)
{
    (void)unused;
    return Py_NewRef((PyObject *)((struct object *)op)->arena);
}

static PyObject *get_freed(PyObject *op, void *unused)
{
    (void)unused;
    return PyBool_FromLong(pointer_read(&((struct object *)op)->data) == NULL);
}

static PyObject *get_shared(PyObject *op, void *unused)
{
    struct us_object_info info;

    (void)unused;
    return look_up(op, &info) ? PyBool_FromLong(info.shared) : NULL;
}

static PyObject *get_holders(PyObject *op, void *unused)
{
    struct us_object_info info;
    PyObject *slots;
    Py_ssize_t at = 0;

    (void)unused;
    if (!look_up(op, &info)) {
        return NULL;
    }
    if (!info.shared && info.owner != 0) {
        info.holders = 1ULL << (info.owner - 1);
    }
    slots = PyTuple_New(__builtin_popcountll(info.holders));
    for (uint32_t slot = 0; slots != NULL && slot < 64; slot++) {
        if (info.holders >> slot & 1) {
            PyObject *number = PyLong_FromUnsignedLong(slot);

            if (number == NULL) {
                Py_CLEAR(slots);
                break;
            }
            PyTuple_SET_ITEM(slots, at++, number);
        }
    }
    return slots;
}

static PyObject *get_in_flight(PyObject *op, void *unused)
{
    struct us_object_info info;

    (void)unused;
    return look_up(op, &info) ? PyLong_FromUnsignedLong(info.transits) : NULL;
}

PyGetSetDef object_getset[] = {
    {"shared", get_shared, NULL, "Was it ever sent, so that its holders own it.", NULL},
    {"holders", get_holders, NULL, "Slots of the participants that hold it.", NULL},
    {"in_flight", get_in_flight, NULL,
     "Handles and messages of it that nobody has received yet.", NULL},
    {"usable_size", get_usable_size, NULL, "Bytes that the slot really has.", NULL},
    {"freed", get_freed, NULL,
     "True after free(), move() or a krealloc() that moved it.", NULL},
    {"offset", get_offset, NULL, "From the start of the arena; equal in every process.",
     NULL},
    {"address", get_address, NULL, "In this process.", NULL},
    {"page", get_page, NULL, "First page of its slab, from the first page for objects.",
     NULL},
    {"slab", get_slab, NULL, "Creation number of its slab in its cache.", NULL},
    {"index", get_index, NULL, "Of the object in its slab.", NULL},
    {"node", get_node, NULL, "Memory node of its slab.", NULL},
    {"cache", get_cache, NULL, "None for buffers straight from the page allocator.",
     NULL},
    {"arena", get_arena, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyObject *object_repr(PyObject *op)
{
    struct object *self = (struct object *)op;
    void *data = pointer_read(&self->data);
    Py_ssize_t exports = count_read(&self->word) / WORD_EXPORT;
    PyObject *whose, *text;
    struct us_object_info info;

    whose = self->cache != NULL ? PyUnicode_FromFormat("%R", self->cache->name)
                                : PyUnicode_FromString("kmalloc");
    if (whose == NULL) {
        return NULL;
    }
    if (data == NULL) {
        text = PyUnicode_FromFormat("<uslub.Object of %U, %zd bytes, freed>", whose,
                                    self->nbytes);
    } else if (us_object_stat(self->arena->engine, data, &info) != US_OK) {
        text = PyUnicode_FromFormat("<uslub.Object of %U, %zd bytes, not to be found>",
                                    whose, self->nbytes);
    } else if (info.large) {
        text = PyUnicode_FromFormat(
            "<uslub.Object of %U, %zd bytes at page %u, %zd exports>", whose,
            self->nbytes, info.page, exports);
    } else {
        text = PyUnicode_FromFormat(
            "<uslub.Object of %U, %zd bytes, object %u of slab %u, %zd exports>", whose,
            self->nbytes, info.index, info.slab, exports);
    }
    Py_DECREF(whose);
    return text;
}
