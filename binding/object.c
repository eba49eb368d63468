/* SPDX-License-Identifier: MIT */
/*
 * object.c - Object: one object of a cache, or one kmalloc buffer, as writable bytes.
 *
 * The memory returns when the last reference goes (object_dealloc): every view keeps
 * one, counted as an export or not. free(), move() and leaving `with` end it earlier,
 * and only after object_claim() has found nobody else who can see it.
 *
 * Objects carry the GC header but are never tracked: they own nothing that could lead
 * back to them, while containers of them must stay visible to gc.get_referrers(); a
 * container of objects that cannot be tracked would be dropped from the collector's
 * lists.
 */
#include "object.h"

#include <stddef.h>
#include <structmember.h>

/* ---- birth and death ---- */

PyObject *object_new(struct cache *cache, struct arena *arena, void *data,
                     Py_ssize_t nbytes)
{
    struct spares *spares = cache != NULL ? &cache->spares : &arena->spares;
    struct object *self = spares_take(spares);

    if (self == NULL) {
        self = PyObject_GC_New(struct object, arena->state->object_type);
        if (self == NULL) {
            return NULL;
        }
        self->cache = cache;
        self->arena = arena;
        self->weakrefs = NULL;
    }
    self->nbytes = nbytes;
    return object_begin(self, data, cache != NULL ? &cache->ob_base : &arena->ob_base);
}

static inline void give_spare(struct spares *spares, struct object *self)
{
    PyTypeObject *type;

#ifdef REUSE_OBJECTS
    if (LIKELY(spares->count < SPARES_MAX)) {
        spares->objects[spares->count++] = self;
        return;
    }
#endif
    (void)spares;
    type = Py_TYPE(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

void spares_drop(struct spares *spares)
{
    while (spares->count > 0) {
        struct object *self = spares->objects[--spares->count];
        PyTypeObject *type = Py_TYPE(self);

        PyObject_GC_Del(self);
        Py_DECREF(type);
    }
}

int spares_traverse(struct spares *spares, visitproc visit, void *arg)
{
    for (unsigned i = 0; i < spares->count; i++) {
        Py_VISIT(Py_TYPE(spares->objects[i]));
    }
    return 0;
}

static us_err give_back(struct object *self, int cpu)
{
    if (self->cache == NULL) {
        return us_kfree(self->arena->engine, self->data, cpu);
    }
    return us_free_on(self->cache->engine, self->data, cpu);
}

/* A destructor cannot raise: what went wrong goes to sys.unraisablehook. */
static COLD void complain(struct object *self, us_err code)
{
    PyObject *type, *value, *traceback;

    if (code == US_ENOTOWNER) {
        return; /* inherited over a fork() that left us no place in the arena */
    }
    PyErr_Fetch(&type, &value, &traceback);
    raise_engine(self->arena->state, code);
    PyErr_WriteUnraisable((PyObject *)Py_TYPE(self));
    PyErr_Restore(type, value, traceback);
}

static COLD void kmalloc_dealloc(struct object *self)
{
    struct arena *arena = self->arena;

    if (self->data != NULL) {
        us_err code = self->borrowed ? US_OK : us_kfree(arena->engine, self->data, -1);

        if (code != US_OK) {
            complain(self, code);
        }
        arena_leave(arena);
    }
    give_spare(&arena->spares, self);
    Py_DECREF(arena);
}

/* The other half of cache_alloc(), and as hot. */
static void object_dealloc(PyObject *op)
{
    struct object *self = (struct object *)op;
    struct cache *cache = self->cache;

    if (UNLIKELY(self->weakrefs != NULL)) {
        PyObject_ClearWeakRefs(op);
    }
    if (UNLIKELY(cache == NULL)) {
        kmalloc_dealloc(self);
        return;
    }
    if (LIKELY(self->data != NULL)) {
        us_err code = us_free(cache->engine, self->data);

        if (UNLIKELY(code != US_OK)) {
            complain(self, code);
        }
        arena_leave(self->arena);
    }
    give_spare(&cache->spares, self);
    Py_DECREF(cache);
}

static int object_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct object *self = (struct object *)op;

    Py_VISIT(Py_TYPE(op));
    if (self->cache != NULL) {
        Py_VISIT(self->cache);
    } else {
        Py_VISIT(self->arena);
    }
    return 0;
}

/* ---- buffers ---- */

PyObject *raise_gone(struct object *self)
{
    return raise_own(
        self->arena->state, OWN_FREED,
        "this object of %zd bytes has no memory any more: it was freed, moved "
        "to another process or moved by krealloc()",
        self->nbytes);
}

static int object_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    struct object *self = (struct object *)op;

    if (!word_export(&self->word)) {
        view->obj = NULL;
        raise_gone(self);
        return -1;
    }
    if (PyBuffer_FillInfo(view, op, self->data, self->nbytes, 0, flags) != 0) {
        count_add(&self->word, -WORD_EXPORT);
        return -1;
    }
    return 0;
}

static void object_releasebuffer(PyObject *op, Py_buffer *view)
{
    (void)view;
    count_add(&((struct object *)op)->word, -WORD_EXPORT);
}

static Py_ssize_t object_length(PyObject *op)
{
    return ((struct object *)op)->nbytes;
}

/* Without a buffer, so that a copy leaves no trace in `word`. */
static PyObject *object_bytes(PyObject *op, PyObject *unused)
{
    struct object *self = (struct object *)op;
    void *data = pointer_read(&self->data);

    (void)unused;
    if (data == NULL) {
        return raise_gone(self);
    }
    return PyBytes_FromStringAndSize(data, self->nbytes);
}

/* ---- ending on purpose ---- */

/* `action` is the name of the method that was called. */
static const char *verb(const char *action)
{
    if (strcmp(action, "krealloc") == 0) {
        return "move";
    }
    return strcmp(action, "move") == 0 ? "hand over" : "free";
}

static COLD void raise_in_use(struct object *self, const char *action,
                              Py_ssize_t exports, Py_ssize_t references)
{
    struct state *state = self->arena->state;

    action = verb(action);
    if (exports > 0) {
        raise_own(
            state, OWN_IN_USE,
            "cannot %s this object of %zd bytes: %zd exported buffer%s (memoryview, "
            "ndarray, ...) can still see it; drop the views first, or let go of the "
            "object and its memory returns with the last of them",
            action, self->nbytes, exports, exports == 1 ? "" : "s");
        return;
    }
    raise_own(
        state, OWN_IN_USE,
        "cannot %s this object of %zd bytes: %zd reference%s to it can be explained "
        "by no variable and no container, so a view may keep it (torch.frombuffer() "
        "and np.ndarray(buffer=...) do); drop the views first, or let go of the "
        "object and its memory returns with the last of them",
        action, self->nbytes, references, references == 1 ? "" : "s");
}

void object_unclaim(struct object *self)
{
    count_add(&self->word, -WORD_ENDING);
}

/* Not to be ended by us, whoever else sees it. */
static bool may_end(struct object *self, const char *action)
{
    if (self->borrowed) {
        raise_text(self->arena->state, US_ENOTOWNER,
                   "cannot %s an object that is under construction", verb(action));
        return false;
    }
    if (flag_read(&self->arena->closed)) {
        raise_closed(self->arena);
        return false;
    }
    return true;
}

bool object_claim(struct object *self, const char *action, PyObject *const *containers)
{
    Py_ssize_t unexplained = 0;
    object_word word;
    int explained;

    if (!may_end(self, action)) {
        return false;
    }
    word = word_claim(&self->word);
    if (UNLIKELY(word & WORD_ENDING)) {
        raise_own(self->arena->state, OWN_IN_USE,
                  "cannot %s this object: another thread is about to", verb(action));
        return false;
    }
    if (word >= WORD_EXPORT) {
        raise_in_use(self, action, word / WORD_EXPORT, 0);
        return false;
    }
    if ((word & WORD_EVER) == 0) {
        return true; /* no buffer was ever exported: nothing can see its memory */
    }
    explained =
        references_explained((PyObject *)self, action, containers, &unexplained);
    if (explained != 1) {
        object_unclaim(self);
        if (explained == 0) {
            raise_in_use(self, action, 0, unexplained);
        }
        return false;
    }
    return true;
}

void object_empty(struct object *self)
{
    pointer_write(&self->data, NULL);
    arena_leave(self->arena);
}

/* `action`: the name of the method, under which references.c looks for the call. */
static PyObject *end(struct object *self, const char *action, int cpu)
{
    us_err code;

    if (pointer_read(&self->data) == NULL) {
        return raise_text(self->arena->state, US_EDOUBLEFREE,
                          "this object of %zd bytes is already free: it was freed, or "
                          "moved to another process",
                          self->nbytes);
    }
    if (!object_claim(self, action, NULL)) {
        return NULL;
    }
    code = give_back(self, cpu);
    if (UNLIKELY(code != US_OK)) {
        object_unclaim(self);
        return raise_engine(self->arena->state, code);
    }
    object_empty(self);
    Py_RETURN_NONE;
}

static PyObject *object_free(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    static const struct parameters expected = {"free", 0, 0, {"cpu"}};
    struct object *self = (struct object *)op;
    int cpu = -1;

    if (UNLIKELY(nargs != 0 || kwnames != NULL)) {
        PyObject *value;

        if (!parse_arguments(&expected, args, nargs, kwnames, &value) ||
            !convert_cpu(self->arena->state, value, "cpu", &cpu)) {
            return NULL;
        }
    }
    return end(self, "free", cpu);
}

static PyObject *object_enter(PyObject *op, PyObject *unused)
{
    struct object *self = (struct object *)op;

    (void)unused;
    if (pointer_read(&self->data) == NULL) {
        return raise_gone(self);
    }
    return Py_NewRef(op);
}

static PyObject *object_exit(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    struct object *self = (struct object *)op;
    bool raised = nargs > 0 && args[0] != Py_None;
    PyObject *done;

    if (pointer_read(&self->data) == NULL) {
        Py_RETURN_NONE;
    }
    done = end(self, "__exit__", -1);
    if (done == NULL && raised &&
        PyErr_ExceptionMatches(self->arena->state->own_errors[OWN_IN_USE])) {
        /* The traceback keeps the block's views: the block's own exception matters
         * more. */
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    return done;
}

/* Handle(...), by what its __new__() comes down to. */
static PyObject *make_handle(struct object *self, void *data)
{
    struct arena *arena = self->arena;
    PyObject *name = self->cache == NULL ? arena->state->empty_text : self->cache->name;
    PyObject *handle = NULL, *fields;

    fields = Py_BuildValue("((ssKinO))", arena->birth.name, arena->id,
                           (unsigned long long)us_offset(arena->engine, data),
                           (int)us_owner(arena->engine), self->nbytes, name);
    if (fields != NULL) {
        handle = PyTuple_Type.tp_new((PyTypeObject *)arena->state->handle_type, fields,
                                     NULL);
        Py_DECREF(fields);
    }
    return handle;
}

static PyObject *object_move(PyObject *op, PyObject *unused)
{
    struct object *self = (struct object *)op;
    struct arena *arena = self->arena;
    void *data = pointer_read(&self->data);
    PyObject *handle;
    us_err code;

    (void)unused;
    if (data == NULL) {
        return raise_gone(self);
    }
    if (!object_claim(self, "move", NULL)) {
        return NULL;
    }
    handle = make_handle(self, data);
    if (handle == NULL) {
        object_unclaim(self);
        return NULL;
    }
    code = us_move(arena->engine, data);
    if (code != US_OK) {
        Py_DECREF(handle);
        object_unclaim(self);
        return raise_engine(arena->state, code);
    }
    object_empty(self);
    return handle;
}

/* The same memory: a reference more. */
static PyObject *object_copy(PyObject *op, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(op);
}

static PyObject *object_dlpack(PyObject *op, PyObject *args, PyObject *kwargs)
{
    return call_method("uslub._dlpack", "dlpack", op, args, kwargs);
}

static PyObject *object_dlpack_device(PyObject *op, PyObject *unused)
{
    (void)unused;
    return call_helper("uslub._dlpack", "dlpack_device", op, NULL);
}

static PyObject *object_deepcopy(PyObject *op, PyObject *memo)
{
    return call_helper("uslub._wire", "deep_copy", op, Py_NewRef(memo));
}

/* ---- type ---- */

static PyMethodDef object_methods[] = {
    {"free", (PyCFunction)(void (*)(void))object_free, METH_FASTCALL | METH_KEYWORDS,
     "free($self, /, *, cpu=None)\n--\n\n"
     "Give the memory back now; ObjectInUse (a BufferError) while a view exists."},
    {"move", object_move, METH_NOARGS,
     "move($self, /)\n--\n\n"
     "Let go of the object without freeing it; arena.adopt() takes the Handle elsewhere."},
    {"__enter__", object_enter, METH_NOARGS,
     "__enter__($self, /)\n--\n\nThe object itself."},
    {"__exit__", (PyCFunction)(void (*)(void))object_exit, METH_FASTCALL,
     "__exit__($self, /, *details)\n--\n\nfree(), unless that happened already."},
    {"__dlpack__", (PyCFunction)(void (*)(void))object_dlpack,
     METH_VARARGS | METH_KEYWORDS,
     "__dlpack__($self, *, stream=None, max_version=None, dl_device=None, copy=None)\n"
     "--\n\nThe bytes as a DLPack capsule, for from_dlpack() of any array library."},
    {"__dlpack_device__", object_dlpack_device, METH_NOARGS,
     "__dlpack_device__($self, /)\n--\n\nMain memory."},
    {"__bytes__", object_bytes, METH_NOARGS, "__bytes__($self, /)\n--\n\nA copy."},
    {"__reduce__", object_reduce, METH_NOARGS, NULL},
    {"__copy__", object_copy, METH_NOARGS, NULL},
    {"__deepcopy__", object_deepcopy, METH_O, NULL},
    {"_send", object_send, METH_NOARGS, "_send($self, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef object_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(struct object, weakrefs), READONLY,
     NULL},
    {"nbytes", T_PYSSIZET, offsetof(struct object, nbytes), READONLY,
     "Bytes asked for; the length of every view."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot object_slots[] = {
    {Py_tp_dealloc, object_dealloc},
    {Py_tp_traverse, object_traverse},
    {Py_tp_repr, object_repr},
    {Py_tp_methods, object_methods},
    {Py_tp_members, object_members},
    {Py_tp_getset, object_getset},
    {Py_bf_getbuffer, object_getbuffer},
    {Py_bf_releasebuffer, object_releasebuffer},
    {Py_sq_length, object_length},
    {Py_tp_doc,
     "One object of a cache, or one kmalloc buffer: writable bytes.\n\n"
     "The memory returns when the last reference is gone: the object's own, or\n"
     "that of any view of it. free() and leaving `with` do it earlier."},
    {0, NULL},
};

PyType_Spec object_spec = {
    .name = "uslub.Object",
    .basicsize = sizeof(struct object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = object_slots,
};
