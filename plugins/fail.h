/* plugins/fail.h -- fill a struct dbrx_error, printf style, and return its code.
 * For the code on either side of the dlopen line; not part of the ABI. */
#ifndef DBRX_PLUGINS_FAIL_H
#define DBRX_PLUGINS_FAIL_H

#include "plugins/abi.h"

#include <stdarg.h>
#include <stdio.h>

__attribute__((format(printf, 3, 4), unused))
static dbrx_status fail(struct dbrx_error *err, dbrx_status code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
    }
    return code;
}

#endif
