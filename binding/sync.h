/* SPDX-License-Identifier: MIT */
/*
 * sync.h - the few words of the binding that threads may change at the same time.
 *
 * With a GIL these are plain words: every function here runs without giving it up. On
 * free-threaded builds they are atomic, with the operations that CPython itself uses.
 */
#ifndef USLUB_BINDING_SYNC_H
#define USLUB_BINDING_SYNC_H

#include <Python.h>

#ifdef Py_BEGIN_CRITICAL_SECTION
#define BEGIN_CRITICAL(op) Py_BEGIN_CRITICAL_SECTION(op)
#define END_CRITICAL       Py_END_CRITICAL_SECTION()
#else
#define BEGIN_CRITICAL(op) {
#define END_CRITICAL       }
#endif

typedef Py_ssize_t shared_count;
typedef int shared_flag;

/*
 * State of an Object: exported buffers in units of WORD_EXPORT, and two bits.
 * WORD_EVER: a buffer was exported at some time, so views may exist that hold a mere
 * reference. WORD_ENDING: its memory is being given away, or is gone: no buffer may be
 * exported.
 */
typedef Py_ssize_t object_word;
#define WORD_ENDING 1
#define WORD_EVER   2
#define WORD_EXPORT 4

#ifdef Py_GIL_DISABLED

static inline shared_count count_read(const shared_count *count)
{
    return _Py_atomic_load_ssize(count);
}

/* Compare and swap; false: *old is what was found. */
static inline int count_swap(shared_count *count, shared_count *old, shared_count new)
{
    return _Py_atomic_compare_exchange_ssize(count, old, new);
}

static inline void count_add(shared_count *count, shared_count n)
{
    (void)_Py_atomic_add_ssize(count, n);
}

/* Down by one; true: that was the last. */
static inline int count_down(shared_count *count)
{
    return _Py_atomic_add_ssize(count, -1) == 1;
}

static inline int flag_read(const shared_flag *flag)
{
    return _Py_atomic_load_int_relaxed(flag);
}

/* Raises the flag; true: it was down. */
static inline int flag_raise(shared_flag *flag)
{
    return _Py_atomic_exchange_int(flag, 1) == 0;
}

static inline void *pointer_read(void *const *pointer)
{
    return _Py_atomic_load_ptr_relaxed(pointer);
}

static inline void pointer_write(void **pointer, void *value)
{
    _Py_atomic_store_ptr_relaxed(pointer, value);
}

#else /* a GIL */

static inline shared_count count_read(const shared_count *count)
{
    return *count;
}

static inline int count_swap(shared_count *count, shared_count *old, shared_count new)
{
    (void)old;
    *count = new;
    return 1;
}

static inline void count_add(shared_count *count, shared_count n)
{
    *count += n;
}

static inline int count_down(shared_count *count)
{
    return --*count == 0;
}

static inline int flag_read(const shared_flag *flag)
{
    return *flag;
}

static inline int flag_raise(shared_flag *flag)
{
    int was = *flag;

    *flag = 1;
    return was == 0;
}

static inline void *pointer_read(void *const *pointer)
{
    return *pointer;
}

static inline void pointer_write(void **pointer, void *value)
{
    *pointer = value;
}

#endif

/*
 * Up by one unless it is zero. With a GIL the caller knows that it is not: whoever
 * brings it to zero has raised a flag before, which the caller has looked at.
 */
static inline int count_up(shared_count *count)
{
#ifdef Py_GIL_DISABLED
    shared_count old = count_read(count);

    while (old != 0) {
        if (count_swap(count, &old, old + 1)) {
            return 1;
        }
    }
    return 0;
#else
    ++*count;
    return 1;
#endif
}

/* One more exported buffer; false: the object is ending. */
static inline int word_export(object_word *word)
{
    object_word old = count_read(word);

    while ((old & WORD_ENDING) == 0) {
        if (count_swap(word, &old, (old | WORD_EVER) + WORD_EXPORT)) {
            return 1;
        }
    }
    return 0;
}

/* Nothing exported and not ending: sets WORD_ENDING. Returns the word as it was. */
static inline object_word word_claim(object_word *word)
{
    object_word old = count_read(word);

    while (old < WORD_EXPORT && (old & WORD_ENDING) == 0) {
        if (count_swap(word, &old, old | WORD_ENDING)) {
            return old;
        }
    }
    return old;
}

#endif
