/* SPDX-License-Identifier: MIT */
/*
 * error.h - what a failing call says: who, what happened, what was expected, what to
 * do.
 *
 * The text belongs to the thread. Nothing here touches an arena.
 */
#ifndef US_BASE_ERROR_H
#define US_BASE_ERROR_H

#include "uslub/uslub.h"

/* Records the sentence for us_last_error() and returns `code`. */
us_err us_fail(us_err code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Forgets the last failure. */
void us_last_clear(void);
/* The same for a failed system call: appends errno in words. */
us_err us_fail_errno(us_err code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
