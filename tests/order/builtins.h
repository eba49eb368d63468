/* SPDX-License-Identifier: MIT */
/*
 * builtins.h - stands in front of the engine's C files when a model is compiled: the
 * atomic builtins of base/atomic.h become calls of the checker, orders included.
 *
 * __SANITIZE_THREAD__ makes base/atomic.h use a builtin for the double word too. A
 * builtin that is not here would go to memory behind the checker's back;
 * test_order.py sees to it that there is none.
 */
#ifndef ORDER_BUILTINS_H
#define ORDER_BUILTINS_H

#include "order.h"

/* The type of *p as a value: without const. */
#define ORDER_TYPE(p) __typeof__(((void)0, *(p)))

#define __atomic_load_n(p, order)                                                      \
    ({                                                                                 \
        ORDER_TYPE(p) ret_;                                                            \
        order_load(&ret_, (p), sizeof(ret_), (order));                                 \
        ret_;                                                                          \
    })
#define __atomic_store_n(p, v, order)                                                  \
    ({                                                                                 \
        ORDER_TYPE(p) value_ = (v);                                                    \
        order_store((p), &value_, sizeof(value_), (order));                            \
    })
#define __atomic_compare_exchange_n(p, expected, v, weak, success, failure)            \
    ({                                                                                 \
        ORDER_TYPE(p) value_ = (v);                                                    \
        order_cas((p), (expected), &value_, sizeof(value_), (success), (failure));     \
    })
#define ORDER_RMW(p, v, what, order)                                                   \
    ({                                                                                 \
        ORDER_TYPE(p) ret_, value_ = (v);                                              \
        order_rmw(&ret_, (p), &value_, sizeof(value_), (what), (order));               \
        ret_;                                                                          \
    })
#define __atomic_fetch_add(p, v, order)  ORDER_RMW(p, v, ORDER_ADD, order)
#define __atomic_fetch_or(p, v, order)   ORDER_RMW(p, v, ORDER_OR, order)
#define __atomic_fetch_and(p, v, order)  ORDER_RMW(p, v, ORDER_AND, order)
#define __atomic_exchange_n(p, v, order) ORDER_RMW(p, v, ORDER_EXCHANGE, order)
#define __atomic_thread_fence(order)     order_fence(order)
#define __atomic_signal_fence(order)     order_signal_fence()

#ifndef __SANITIZE_THREAD__
#define __SANITIZE_THREAD__ 1
#endif

/* A plain read on purpose, in base/atomic.h: here a relaxed one. */
#define us_load_speculative64 order_plain_speculative64
#include "base/atomic.h"
#undef us_load_speculative64

static inline uint64_t us_load_speculative64(const uint64_t *p)
{
    uint64_t ret;

    order_load(&ret, p, sizeof(ret), __ATOMIC_RELAXED);
    if (order_speculated) {
        order_speculated(p);
    }
    return ret;
}

#endif
