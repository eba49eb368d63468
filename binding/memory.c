/* SPDX-License-Identifier: MIT */
/*
 * memory.c - Objects that no Cache of the caller made: kmalloc, krealloc, adopt.
 */
#include "binding.h"

/* The family of size caches by its name; NULL: normal. */
static bool kind_from(struct state *state, PyObject *value, uint32_t *gfp)
{
    static const struct {
        const char *name;
        uint32_t gfp;
    } kinds[] = {
        {"normal", 0},
        {"reclaimable", US_GFP_RECLAIMABLE},
        {"dma", US_GFP_DMA},
        {"account", US_GFP_ACCOUNT},
    };

    if (value == NULL) {
        return true;
    }
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "kind must be a str, not %.100s",
                     Py_TYPE(value)->tp_name);
        return false;
    }
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (PyUnicode_CompareWithASCIIString(value, kinds[i].name) == 0) {
            *gfp |= kinds[i].gfp;
            return true;
        }
    }
    raise_text(state, US_EBADARG,
               "kind is %R, expected 'normal', 'reclaimable', 'dma' or 'account'",
               value);
    return false;
}

static PyObject *kmalloc(struct arena *self, uint64_t n, uint32_t gfp, int cpu,
                         int node)
{
    PyObject *object;
    void *data;

    if (!arena_enter(self)) {
        return NULL;
    }
    data = us_kmalloc(self->engine, n, gfp, cpu, node);
    if (data == NULL) {
        raise_engine(self->state, us_last_code());
        arena_leave(self);
        return NULL;
    }
    object = object_new(NULL, self, data, (Py_ssize_t)n);
    if (object == NULL) {
        (void)us_kfree(self->engine, data, -1);
        arena_leave(self);
    }
    return object;
}

PyObject *arena_kmalloc(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames)
{
    static const struct parameters expected = {
        "kmalloc", 1, 1, {"n", "zero", "node", "cpu", "kind", "emergency"}};
    struct arena *self = (struct arena *)op;
    struct state *state = self->state;
    PyObject *values[6];
    int cpu = -1, node = -1;
    bool zero, emergency;
    uint32_t gfp = 0;
    uint64_t n;

    if (nargs == 1 && kwnames == NULL) {
        return convert_size_positive(state, args[0], "n", &n)
                   ? kmalloc(self, n, 0, -1, -1)
                   : NULL;
    }
    if (!parse_arguments(&expected, args, nargs, kwnames, values) ||
        !convert_size_positive(state, values[0], "n", &n) ||
        !convert_bool(values[1], &zero) ||
        !convert_cpu(state, values[2], "node", &node) ||
        !convert_cpu(state, values[3], "cpu", &cpu) ||
        !kind_from(state, values[4], &gfp) || !convert_bool(values[5], &emergency)) {
        return NULL;
    }
    gfp |= (zero ? US_GFP_ZERO : 0u) | (emergency ? US_GFP_EMERGENCY : 0u);
    return kmalloc(self, n, gfp, cpu, node);
}

/* ---- krealloc ---- */

struct resize {
    struct arena *arena;
    struct object *buffer;
    uint64_t n;
    uint32_t gfp;
    int cpu;
    bool zero;
};

static void *resize(const struct resize *wish)
{
    uint64_t old = (uint64_t)wish->buffer->nbytes;
    char *data = us_krealloc(wish->arena->engine, wish->buffer->data, wish->n,
                             wish->gfp, wish->cpu);

    if (data == NULL) {
        raise_engine(wish->arena->state, us_last_code());
    } else if (wish->zero && wish->n > old) {
        memset(data + old, 0, wish->n - old);
    }
    return data;
}

/*
 * Will it stay where it is, with every byte that a view may see? A slab object that
 * fits does. A large one gives pages back when it shrinks; grown by what its last page
 * has left it stays.
 */
static bool stays(const struct resize *wish, const struct us_object_info *info)
{
    uint64_t old = (uint64_t)wish->buffer->nbytes;

    if (wish->n > info->usable) {
        return false;
    }
    return !info->large || (wish->n >= old && info->usable - old < 4096);
}

static PyObject *in_place(const struct resize *wish)
{
    if (resize(wish) == NULL) {
        return NULL;
    }
    wish->buffer->nbytes = (Py_ssize_t)wish->n;
    return Py_NewRef((PyObject *)wish->buffer);
}

/*
 * Nobody may look meanwhile. The Object for a new place is made first, since it cannot
 * fail later; if it is needed, it takes over the buffer's place in the arena.
 */
static PyObject *anywhere(const struct resize *wish)
{
    struct object *buffer = wish->buffer, *moved;
    struct arena *arena = buffer->arena;
    void *data;

    if (!object_claim(buffer, "krealloc", NULL)) {
        return NULL;
    }
    moved = (struct object *)object_new(NULL, arena, NULL, (Py_ssize_t)wish->n);
    data = moved == NULL ? NULL : resize(wish);
    if (data == NULL || data == buffer->data) {
        object_unclaim(buffer);
        Py_XDECREF(moved); /* without memory it holds no place in the arena */
        if (data == NULL) {
            return NULL;
        }
        buffer->nbytes = (Py_ssize_t)wish->n;
        return Py_NewRef((PyObject *)buffer);
    }
    moved->data = data;
    pointer_write(&buffer->data, NULL);
    return (PyObject *)moved;
}

/* Is it a kmalloc buffer of this arena that this process may resize? */
static bool may_resize(struct arena *arena, PyObject *value)
{
    struct state *state = arena->state;
    struct object *buffer = (struct object *)value;

    if (Py_TYPE(value) != state->object_type) {
        PyErr_Format(PyExc_TypeError,
                     "krealloc() takes an Object of kmalloc(), not %.100s",
                     Py_TYPE(value)->tp_name);
        return false;
    }
    if (pointer_read(&buffer->data) == NULL) {
        raise_gone(buffer);
        return false;
    }
    if (buffer->arena->engine != arena->engine) {
        raise_text(state, US_EFOREIGN,
                   "krealloc() of %R, which lives in another arena: %R", value,
                   (PyObject *)buffer->arena);
        return false;
    }
    if (buffer->cache != NULL) {
        raise_text(
            state, US_EWRONGCACHE,
            "krealloc() of %R, which belongs to cache %R: only kmalloc() buffers can "
            "change their size",
            value, buffer->cache->name);
        return false;
    }
    return true;
}

static PyObject *krealloc(const struct resize *wish)
{
    struct us_object_info info;
    us_err code;

    code = us_object_stat(wish->arena->engine, wish->buffer->data, &info);
    if (code != US_OK) {
        return raise_engine(wish->arena->state, code);
    }
    return stays(wish, &info) ? in_place(wish) : anywhere(wish);
}

PyObject *arena_krealloc(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames)
{
    static const struct parameters expected = {
        "krealloc", 2, 2, {"buffer", "n", "zero", "cpu", "kind"}};
    struct arena *self = (struct arena *)op;
    struct resize wish = {.arena = self, .cpu = -1};
    PyObject *values[5], *resized = NULL;

    if (!parse_arguments(&expected, args, nargs, kwnames, values) ||
        !may_resize(self, values[0]) ||
        !convert_size_positive(self->state, values[1], "n", &wish.n) ||
        !convert_bool(values[2], &wish.zero) ||
        !convert_cpu(self->state, values[3], "cpu", &wish.cpu) ||
        !kind_from(self->state, values[4], &wish.gfp) || !arena_enter(self)) {
        return NULL;
    }
    wish.buffer = (struct object *)values[0];
    BEGIN_CRITICAL(wish.buffer);
    resized = krealloc(&wish);
    END_CRITICAL;
    arena_leave(self);
    return resized;
}

/* ---- adopt ---- */

struct parcel {
    unsigned long long offset;
    unsigned owner;
    Py_ssize_t nbytes;
    PyObject *cache; /* borrowed: its name, "" for kmalloc */
};

/* The fields of uslub.Handle, in their order. */
enum { ARENA, ARENA_ID, OFFSET, OWNER, NBYTES, CACHE, FIELDS };

/* Is it a Handle, and of this arena? */
static bool is_ours(struct arena *arena, PyObject *handle)
{
    PyObject *id;

    if (!PyObject_TypeCheck(handle, (PyTypeObject *)arena->state->handle_type) ||
        !PyTuple_Check(handle) || PyTuple_GET_SIZE(handle) != FIELDS) {
        PyErr_Format(PyExc_TypeError, "adopt() takes a uslub.Handle, not %.100s",
                     Py_TYPE(handle)->tp_name);
        return false;
    }
    id = PyTuple_GET_ITEM(handle, ARENA_ID);
    if (!PyUnicode_Check(id) || PyUnicode_CompareWithASCIIString(id, arena->id) != 0) {
        raise_text(arena->state, US_EFOREIGN, "%R is of another arena than %R", handle,
                   (PyObject *)arena);
        return false;
    }
    return true;
}

static bool open_handle(struct arena *arena, PyObject *handle, struct parcel *ret)
{
    struct state *state = arena->state;
    int64_t offset = 0, owner = 0, nbytes = 0;

    if (!is_ours(arena, handle) ||
        !convert_int(state, PyTuple_GET_ITEM(handle, OFFSET), "handle.offset", 0,
                     INT64_MAX, &offset) ||
        !convert_int(state, PyTuple_GET_ITEM(handle, OWNER), "handle.owner", 1,
                     UINT16_MAX, &owner) ||
        !convert_int(state, PyTuple_GET_ITEM(handle, NBYTES), "handle.nbytes", 1,
                     PY_SSIZE_T_MAX, &nbytes)) {
        return false;
    }
    ret->cache = PyTuple_GET_ITEM(handle, CACHE);
    if (!PyUnicode_Check(ret->cache)) {
        PyErr_Format(PyExc_TypeError, "handle.cache must be a str, not %.100s",
                     Py_TYPE(ret->cache)->tp_name);
        return false;
    }
    ret->offset = (unsigned long long)offset;
    ret->owner = (unsigned)owner;
    ret->nbytes = (Py_ssize_t)nbytes;
    return true;
}

/* The Cache that the object will belong to, or NULL without an exception for kmalloc.
 */
static bool find_home(struct arena *arena, const struct parcel *parcel,
                      PyObject *handle, struct cache **ret)
{
    struct us_object_info info;
    us_err code =
        us_object_stat(arena->engine, us_pointer(arena->engine, parcel->offset), &info);

    *ret = NULL;
    if (code != US_OK) {
        raise_engine(arena->state, code);
        return false;
    }
    if ((uint64_t)parcel->nbytes > info.usable) {
        raise_text(
            arena->state, US_EFOREIGN,
            "%R says %zd bytes, but that object has %llu: not a handle of move()",
            handle, parcel->nbytes, (unsigned long long)info.usable);
        return false;
    }
    if (PyUnicode_GET_LENGTH(parcel->cache) == 0 || info.cache == NULL) {
        return true;
    }
    *ret = cache_recent(arena, info.cache, parcel->cache, parcel->nbytes);
    if (*ret == NULL) {
        *ret = (struct cache *)cache_wrap(arena, info.cache, parcel->cache,
                                          (uint64_t)parcel->nbytes);
    }
    return *ret != NULL;
}

static PyObject *adopt(struct arena *arena, const struct parcel *parcel,
                       PyObject *handle)
{
    struct cache *cache;
    struct object *object;
    us_err code;

    if (!find_home(arena, parcel, handle, &cache)) {
        return NULL;
    }
    object = (struct object *)object_new(cache, arena, NULL, parcel->nbytes);
    Py_XDECREF(cache);
    if (object == NULL) {
        return NULL;
    }
    code = us_adopt(arena->engine, parcel->offset, (uint16_t)parcel->owner);
    if (code != US_OK) {
        Py_DECREF(object);
        return raise_engine(arena->state, code);
    }
    object->data = us_pointer(arena->engine, parcel->offset);
    return (PyObject *)object;
}

PyObject *arena_adopt(PyObject *op, PyObject *handle)
{
    struct arena *self = (struct arena *)op;
    struct parcel parcel = {0};
    PyObject *object;

    if (!open_handle(self, handle, &parcel)) {
        return NULL;
    }
    if (!arena_enter(self)) {
        return NULL;
    }
    object = adopt(self, &parcel, handle);
    if (object == NULL) {
        arena_leave(self); /* otherwise our place is now the object's */
    }
    return object;
}
