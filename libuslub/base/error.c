/* SPDX-License-Identifier: MIT */
/* error.c - see error.h. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

static _Thread_local struct {
    us_err code;
    int system_errno;
    char text[512];
} last;

us_err us_fail(us_err code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(last.text, sizeof(last.text), format, args);
    va_end(args);
    last.code = code;
    last.system_errno = 0;
    return code;
}

us_err us_fail_errno(us_err code, const char *format, ...)
{
    int saved = errno;
    va_list args;
    size_t used;

    va_start(args, format);
    (void)vsnprintf(last.text, sizeof(last.text), format, args);
    va_end(args);
    used = strlen(last.text);
    (void)snprintf(last.text + used, sizeof(last.text) - used, ": %s", strerror(saved));
    last.code = code;
    last.system_errno = saved;
    return code;
}

void us_last_clear(void)
{
    last.code = US_OK;
    last.text[0] = '\0';
}

const char *us_last_error(void)
{
    return last.text;
}

us_err us_last_code(void)
{
    return last.code;
}

int us_last_errno(void)
{
    return last.system_errno;
}

const char *us_error_name(us_err code)
{
    static const char *const names[] = {
#define US_X(item, text) text,
        US_ERRORS(US_X)
#undef US_X
    };

    if ((size_t)code >= sizeof(names) / sizeof(names[0])) {
        return "unknown error";
    }
    return names[code];
}

#ifdef US_DEBUG_CHECKS
_Noreturn void us_assert_failed(const char *file, int line, const char *claim)
{
    (void)fprintf(stderr, "uslub: %s:%d: proven claim does not hold: %s\n", file, line,
                  claim);
    abort();
}
#endif
