/* tests/tap.h -- the Test Anything Protocol in a page: ok(), skip(), bail(), done().
 * A test program prints one line per check; automake's tap-driver.sh counts them. */
#ifndef TESTS_TAP_H
#define TESTS_TAP_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static int tap_n, tap_failed;

/* One check; the rest is its name, printf style.  Returns pass. */
__attribute__((format(printf, 2, 3), unused))
static int ok(int pass, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("%sok %d - ", pass ? "" : "not ", ++tap_n);
    vprintf(fmt, ap);
    putchar('\n');
    fflush(stdout);
    va_end(ap);
    tap_failed += !pass;
    return pass;
}

__attribute__((format(printf, 1, 2), unused))
static void skip(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("ok %d # SKIP ", ++tap_n);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
}

/* A remark that shows in the log. */
__attribute__((format(printf, 1, 2), unused))
static void diag(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("# ", stdout);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
}

/* The tests cannot go on at all. */
__attribute__((format(printf, 1, 2), noreturn, unused))
static void bail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("Bail out! ", stdout);
    vprintf(fmt, ap);
    putchar('\n');
    fflush(stdout);
    va_end(ap);
    exit(99);
}

__attribute__((unused))
static int done(void)
{
    printf("1..%d\n", tap_n);
    return tap_failed != 0;
}

#endif
