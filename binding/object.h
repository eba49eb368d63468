/* SPDX-License-Identifier: MIT */
/*
 * object.h - how an Object begins: the half of alloc() that is the binding's.
 *
 * Only where a GIL keeps others away are Objects used again.
 */
#ifndef USLUB_BINDING_OBJECT_H
#define USLUB_BINDING_OBJECT_H

#include "binding.h"

#if !defined(Py_GIL_DISABLED) && !defined(Py_REF_DEBUG) && !defined(Py_TRACE_REFS)
#define REUSE_OBJECTS
#endif

/* A used Object of this owner, to be begun again, or NULL. */
static inline struct object *spares_take(struct spares *spares)
{
#ifdef REUSE_OBJECTS
    if (LIKELY(spares->count > 0)) {
        struct object *self = spares->objects[--spares->count];

        Py_SET_REFCNT(&self->ob_base, 1);
        return self;
    }
#endif
    (void)spares;
    return NULL;
}

/* `self` knows its size and its owner, which is `home`. */
static inline PyObject *object_begin(struct object *self, void *data, PyObject *home)
{
    self->data = data;
    self->word = 0;
    self->borrowed = false;
    Py_INCREF(home);
    return &self->ob_base;
}

#endif
