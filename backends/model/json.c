/* backends/model/json.c -- JSON through cJSON, minus the liberties it takes:
 * what follows the value, keys that occur twice, numbers that are not whole.
 * Knows no key by name. */
#include "backends/model/reader.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Looks for a key that occurs twice in one object; cJSON has bounded the depth. */
static dbrx_status check_keys(const char *name, const cJSON *j, struct dbrx_error *err)
{
    dbrx_status st = DBRX_OK;
    size_t n = 0;
    for (const cJSON *i = j->child; i; i = i->next, n++)
        if (i->child && (st = check_keys(name, i, err)) != DBRX_OK)
            return st;
    if (!cJSON_IsObject(j) || n < 2)
        return DBRX_OK;
    const char **key = malloc(n * sizeof *key);
    if (!key)
        return ckpt_no_memory(err, name);
    n = 0;
    for (const cJSON *i = j->child; i; i = i->next)
        key[n++] = i->string;
    qsort(key, n, sizeof *key, by_text);
    for (size_t i = 1; i < n && st == DBRX_OK; i++)
        if (!strcmp(key[i - 1], key[i]))
            st = ckpt_fail(err, DBRX_E_INVALID, "%s: \"%s\" occurs twice", SHOW(name),
                           SHOW(key[i]));
    free(key);
    return st;
}

dbrx_status ckpt_json_parse(const char *name, const char *text, size_t n, cJSON **out,
                       struct dbrx_error *err)
{
    const char *end = text;
    dbrx_status st;
    cJSON *j = *out = NULL;
    /* cJSON takes a NUL for white space, and the escape of one for the end of a name */
    if (memchr(text, '\0', n))
        return ckpt_fail(err, DBRX_E_INVALID, "%s: invalid JSON, it holds a NUL byte",
                         SHOW(name));
    for (const char *p = text; (p = memchr(p, '\\', (size_t)(text + n - p))); p += 2) {
        if (text + n - p < 6)
            break;
        if (!memcmp(p, "\\u0000", 6))
            return ckpt_fail(err, DBRX_E_INVALID, "%s: a string holds a NUL (\\u0000)",
                             SHOW(name));
    }
    j = cJSON_ParseWithLengthOpts(text, n, &end, 0);
    while (j && end < text + n && strchr(" \t\r\n", *end))
        end++;
    if (!j || end != text + n)
        st = ckpt_fail(err, DBRX_E_INVALID, "%s: invalid JSON at byte %zu, or nested too deep",
                       SHOW(name), (size_t)(end - text));
    else if (!cJSON_IsObject(j))
        st = ckpt_fail(err, DBRX_E_INVALID, "%s: the JSON is not an object", SHOW(name));
    else
        st = check_keys(name, j, err);
    if (st == DBRX_OK)
        *out = j;
    else
        cJSON_Delete(j);
    return st;
}

dbrx_status ckpt_json_load(int dir, const char *name, int optional, cJSON **out,
                      struct dbrx_error *err)
{
    uint64_t size = 0;
    char *text = NULL;
    int fd;
    *out = NULL;
    dbrx_status st = ckpt_file_open(dir, name, &fd, &size, err);
    if (st != DBRX_OK)
        return optional && errno == ENOENT ? DBRX_OK : st;
    if (size > JSON_MAX) {
        st = ckpt_fail(err, DBRX_E_UNSUPPORTED, "%s is larger than %d MiB", SHOW(name),
                       JSON_MAX >> 20);
        goto out;
    }
    text = malloc(size + 1);
    if (!text) {
        st = ckpt_no_memory(err, name);
        goto out;
    }
    st = ckpt_file_read(fd, name, text, size, 0, err);
    if (st == DBRX_OK)
        st = ckpt_json_parse(name, text, size, out, err);
out:
    free(text);
    close(fd);
    return st;
}

const cJSON *ckpt_member(const cJSON *object, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(v) ? NULL : v;
}

int ckpt_whole(const cJSON *j, int64_t lo, int64_t hi, int64_t *out)
{
    double x = cJSON_IsNumber(j) ? j->valuedouble : NAN;
    if (!(x >= (double)lo && x <= (double)hi && x == floor(x)))
        return 0;
    *out = (int64_t)x;
    return 1;
}
