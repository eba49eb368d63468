/* SPDX-License-Identifier: MIT */
/*
 * stream.c - _gather(): many pieces of memory, one behind the other, into an Object.
 *
 * For batches that are larger than a processor's caches and that somebody else will
 * read. Ordinary stores would fetch each line of the target from memory before they
 * overwrite it, and push out what the caches hold; streaming stores do neither. Where
 * the processor has none, this is memcpy().
 *
 * Takes addresses, and believes them: for uslub.torch alone, which holds the tensors.
 */
#include "binding.h"

#ifdef __SSE2__
#include <emmintrin.h>

#define LANE sizeof(__m128i)

/* `target` is at a multiple of LANE, and so is `nbytes` of 4 * LANE. */
static void stream_lanes(char *target, const char *source, size_t nbytes)
{
    for (size_t i = 0; i < nbytes; i += 4 * LANE) {
        __m128i a = _mm_loadu_si128((const __m128i *)(const void *)(source + i));
        __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(source + i + LANE));
        __m128i c =
            _mm_loadu_si128((const __m128i *)(const void *)(source + i + 2 * LANE));
        __m128i d =
            _mm_loadu_si128((const __m128i *)(const void *)(source + i + 3 * LANE));

        _mm_stream_si128((__m128i *)(void *)(target + i), a);
        _mm_stream_si128((__m128i *)(void *)(target + i + LANE), b);
        _mm_stream_si128((__m128i *)(void *)(target + i + 2 * LANE), c);
        _mm_stream_si128((__m128i *)(void *)(target + i + 3 * LANE), d);
    }
}

static void stream(char *target, const char *source, size_t nbytes)
{
    size_t head = -(uintptr_t)target % LANE, body;

    head = head < nbytes ? head : nbytes;
    body = (nbytes - head) / (4 * LANE) * (4 * LANE);
    memcpy(target, source, head);
    stream_lanes(target + head, source + head, body);
    memcpy(target + head + body, source + head + body, nbytes - head - body);
}

/* Streaming stores pass ordinary ones: what is sent next must not be seen before. */
static void stream_end(void)
{
    _mm_sfence();
}
#else
static void stream(char *target, const char *source, size_t nbytes)
{
    memcpy(target, source, nbytes);
}

static void stream_end(void)
{
}
#endif

static const char **read_addresses(PyObject *list, Py_ssize_t count)
{
    const char **addresses = PyMem_New(const char *, (size_t)count + 1);

    for (Py_ssize_t i = 0; addresses != NULL && i < count; i++) {
        addresses[i] = PyLong_AsVoidPtr(PyList_GET_ITEM(list, i));
        if (addresses[i] == NULL && PyErr_Occurred()) {
            PyMem_Free(addresses);
            return NULL;
        }
    }
    return addresses;
}

PyObject *module_gather(PyObject *module, PyObject *args)
{
    PyObject *target, *list;
    const char **addresses;
    Py_ssize_t nbytes, count;
    Py_buffer view;

    (void)module;
    if (!PyArg_ParseTuple(args, "OO!n:_gather", &target, &PyList_Type, &list,
                          &nbytes)) {
        return NULL;
    }
    count = PyList_GET_SIZE(list);
    addresses = read_addresses(list, count);
    if (addresses == NULL) {
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    if (PyObject_GetBuffer(target, &view, PyBUF_WRITABLE) != 0) {
        PyMem_Free(addresses);
        return NULL;
    }
    if (nbytes < 0 || (count > 0 && nbytes > view.len / count)) {
        PyErr_Format(PyExc_ValueError, "%zd pieces of %zd bytes do not fit %zd bytes",
                     count, nbytes, view.len);
    } else {
        Py_BEGIN_ALLOW_THREADS for (Py_ssize_t i = 0; i < count; i++)
        {
            stream((char *)view.buf + i * nbytes, addresses[i], (size_t)nbytes);
        }
        stream_end();
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    PyMem_Free(addresses);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}
