/* tokenizer/files.c -- whole files, and JSON out of them.
 *
 * Everything a reader asks of the file system and of cJSON that is not about
 * tokens. */
#include "tokenizer/tok.h"
#include "tokenizer/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX ((size_t)1 << 30)             /* no vocabulary is that large */

int tok_error(char *err, size_t errlen, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(err, errlen, format, ap);
    va_end(ap);
    /* names out of a file may hold anything, and %.40s may cut a character */
    for (char *p = err; errlen && *p;) {
        int n = utf8_span((unsigned char *)p, strlen(p));
        if (n <= 0 || (unsigned char)*p < ' ' || *p == 0x7f) {
            *p = '?';
            n = 1;
        }
        p += n;
    }
    return -1;
}

char *file_read(const char *path, size_t *len, char *err, size_t errlen)
{
    struct stat st;
    char *data = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);    /* a FIFO of that name must not hang us */
    FILE *f = fd < 0 ? NULL : fdopen(fd, "rb");
    if (!f || fstat(fd, &st)) {
        tok_error(err, errlen, "%s: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        tok_error(err, errlen, "%s: not a regular file", path);
        goto out;
    }
    if (st.st_size == 0 || (uintmax_t)st.st_size > FILE_MAX) {
        tok_error(err, errlen, "%s: the file is %s", path, st.st_size ? "larger than 1 GiB" : "empty");
        goto out;
    }
    data = malloc((size_t)st.st_size + 1);
    if (!data) {
        tok_error(err, errlen, "%s: out of memory", path);
        goto out;
    }
    *len = fread(data, 1, (size_t)st.st_size, f);
    data[*len] = 0;
    if (*len != (size_t)st.st_size) {
        tok_error(err, errlen, "%s: could not be read to its end", path);
        free(data);
        data = NULL;
    }
out:
    if (f)
        fclose(f);
    else if (fd >= 0)
        close(fd);
    return data;
}

cJSON *file_json(const char *path, char *err, size_t errlen)
{
    size_t len;
    char *data = file_read(path, &len, err, errlen);
    if (!data)
        return NULL;
    const char *stop = data;
    cJSON *json = cJSON_ParseWithLengthOpts(data, len, &stop, 0);
    while (json && stop < data + len && strchr(" \t\r\n", *stop))
        stop++;
    if (!json || stop < data + len) {
        size_t line = 1;
        for (const char *p = data; p < stop; p++)
            line += *p == '\n';
        tok_error(err, errlen, "%s: not valid JSON (near line %zu, byte %zu of %zu)", path, line,
                  (size_t)(stop - data), len);
        cJSON_Delete(json);
        json = NULL;
    } else if (!cJSON_IsObject(json)) {
        tok_error(err, errlen, "%s: not a JSON object", path);
        cJSON_Delete(json);
        json = NULL;
    }
    free(data);
    return json;
}

int file_path(char *buf, size_t size, const char *dir, const char *name)
{
    int n = snprintf(buf, size, "%s/%s", dir, name);
    return n < 0 || (size_t)n >= size ? -1 : 0;
}

int file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

int64_t json_id(const cJSON *j)
{
    double d = cJSON_IsNumber(j) ? j->valuedouble : -1;
    return d >= 0 && d <= VOCAB_MAX_ID && d == (double)(int64_t)d ? (int64_t)d : -1;
}

const char *json_string(const cJSON *object, const char *name)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
}
