/* SPDX-License-Identifier: MIT */
/*
 * picture.c - us_picture as plain tuples, for uslub._look.
 *
 *   cpus:  (slab or -1, freelist, chain) of each CPU
 *   nodes: (partial, slabs, objects) of each node
 *   slabs: (slab, page, node, order, objects, inuse, frozen, pfmemalloc, place,
 * freelist)
 */
#include "binding.h"

static PyObject *indexes(const uint16_t *values, uint32_t count)
{
    PyObject *tuple = PyTuple_New(count);

    for (uint32_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *number = PyLong_FromLong(values[i]);

        if (number == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, i, number);
    }
    return tuple;
}

static PyObject *numbers(const uint32_t *values, uint32_t count)
{
    PyObject *tuple = PyTuple_New(count);

    for (uint32_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLong(values[i]);

        if (number == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, i, number);
    }
    return tuple;
}

static PyObject *cpu_tuple(const us_picture *picture, uint32_t cpu)
{
    const uint16_t *freelist;
    const uint32_t *chain;
    uint32_t freelist_count, chain_count;
    int64_t slab =
        us_picture_cpu(picture, cpu, &freelist, &freelist_count, &chain, &chain_count);

    return Py_BuildValue("LNN", (long long)slab, indexes(freelist, freelist_count),
                         numbers(chain, chain_count));
}

static PyObject *node_tuple(const us_picture *picture, uint32_t node)
{
    const uint32_t *partial;
    uint32_t partial_count;
    uint64_t slabs, objects;

    us_picture_node(picture, node, &partial, &partial_count, &slabs, &objects);
    return Py_BuildValue("NKK", numbers(partial, partial_count),
                         (unsigned long long)slabs, (unsigned long long)objects);
}

static PyObject *place_text(const struct us_slab_info *slab)
{
    switch (slab->place) {
    case US_PLACE_CPU:
        return PyUnicode_FromFormat("cpu %u", slab->place_index);
    case US_PLACE_CHAIN:
        return PyUnicode_FromFormat("chain %u", slab->place_index);
    case US_PLACE_NODE:
        return PyUnicode_FromFormat("node %u", slab->place_index);
    case US_PLACE_STRAY:
        return PyUnicode_FromString("stray");
    default:
        return PyUnicode_FromString("full");
    }
}

static PyObject *slab_tuple(const struct us_slab_info *slab)
{
    return Py_BuildValue("IIIIIIOONN", slab->slab, slab->page, slab->node, slab->order,
                         slab->objects, slab->inuse, slab->frozen ? Py_True : Py_False,
                         slab->pfmemalloc ? Py_True : Py_False, place_text(slab),
                         indexes(slab->free_index, slab->free_count));
}

/* Appends `item`, which is stolen, or drops the list. */
static PyObject *append(PyObject *list, PyObject *item)
{
    if (item == NULL || PyList_Append(list, item) != 0) {
        Py_CLEAR(list);
    }
    Py_XDECREF(item);
    return list;
}

static PyObject *describe(const struct arena *arena, const us_picture *picture)
{
    PyObject *cpus = PyList_New(0), *nodes = PyList_New(0), *slabs = PyList_New(0);
    struct us_slab_info slab;

    for (uint32_t cpu = 0; cpus != NULL && cpu < arena->birth.cpus; cpu++) {
        cpus = append(cpus, cpu_tuple(picture, cpu));
    }
    for (uint32_t node = 0; nodes != NULL && node < arena->birth.nodes; node++) {
        nodes = append(nodes, node_tuple(picture, node));
    }
    for (uint32_t i = 0; slabs != NULL && us_picture_slab(picture, i, &slab); i++) {
        slabs = append(slabs, slab_tuple(&slab));
    }
    if (cpus == NULL || nodes == NULL || slabs == NULL) {
        Py_XDECREF(cpus);
        Py_XDECREF(nodes);
        Py_XDECREF(slabs);
        return NULL;
    }
    return Py_BuildValue("NNN", cpus, nodes, slabs);
}

PyObject *cache_snapshot(PyObject *op, PyObject *unused)
{
    struct cache *self = (struct cache *)op;
    PyObject *described, *snapshot = NULL;
    us_picture *picture;
    us_err code;

    (void)unused;
    if (!cache_enter(self)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS code = us_picture_take(self->engine, &picture);
    Py_END_ALLOW_THREADS if (code != US_OK)
    {
        raise_engine(self->state, code);
    }
    else
    {
        described = describe(self->arena, picture);
        us_picture_free(picture);
        if (described != NULL) {
            snapshot = call_helper("uslub._look", "cache_snapshot", op, described);
        }
    }
    arena_leave(self->arena);
    return snapshot;
}
