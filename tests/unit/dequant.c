/* tests/unit/dequant.c -- the dequantisers against the gguf package's own values, recorded in
 * tests/data/gguf/vectors.txt; the table of types. */
#include "backends/backend.h"
#include "backends/graph/dequant.h"
#include "tests/tap.h"

static size_t unhex(unsigned char *out, const char *s)
{
    size_t n = 0;
    for (unsigned byte; sscanf(s + 2 * n, "%2x", &byte) == 1; n++)
        out[n] = (unsigned char)byte;
    return n;
}

static void check(uint32_t type, const unsigned char *raw, size_t bytes, const float *want, size_t n)
{
    const char *name = dtype_name(type);
    float got[1024], one, part[1024];
    size_t wrong = 0, first = n, block = dtype_block(type);
    if (!ok(n && n <= 1024 && dtype_bytes(type, n) == bytes && dtype_named(name) == type,
            "%s: %zu values are %zu bytes", name, n, bytes))
        return;
    dequant(got, raw, type, 0, n);
    for (size_t i = 0; i < n; i++)
        if (got[i] != want[i] && wrong++ == 0)
            first = i;
    ok(!wrong, "%s: every value, to the bit", name);
    if (wrong)
        diag("%zu wrong, first %zu: %.9g, not %.9g", wrong, first, got[first], want[first]);
    wrong = 0;
    for (size_t i = 0; i < n; i++) {
        dequant(&one, raw, type, i, 1);
        wrong += one != want[i];
    }
    for (size_t at = 0; at + 3 < n; at += 7) {     /* begins and ends anywhere */
        size_t len = n - at - 2;
        memset(part, 0xff, sizeof part);
        dequant(part, raw, type, at, len);
        wrong += memcmp(part, want + at, len * sizeof *part) != 0 || part[len] == part[len];
    }
    ok(!wrong, "%s: any stretch of them, and no more", name);
    ok(block == 1 || !dtype_bytes(type, n + 1), "%s: half a block has no size", name);
}

int main(void)
{
    static char line[1 << 16], name[32], raw[1 << 15], values[1 << 15];
    static unsigned char bytes[1 << 14], floats[1 << 14];
    char path[4096];
    const char *src = getenv("srcdir");
    snprintf(path, sizeof path, "%s/tests/data/gguf/vectors.txt", src ? src : ".");
    FILE *f = fopen(path, "r");
    int n = 0;
    if (!f)
        bail("%s cannot be opened", path);
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%31s %32767s %32767s", name, raw, values) != 3)
            bail("%s: line %d", path, n + 1);
        float want[1024];
        size_t n_raw = unhex(bytes, raw), n_float = unhex(floats, values);
        memcpy(want, floats, n_float < sizeof want ? n_float : sizeof want);
        check(dtype_named(name), bytes, n_raw, want, n_float / 4);
        n++;
    }
    fclose(f);
    ok(n == 15, "%d types", n);
    ok(!dtype_block(4) && !dtype_block(99) && !dtype_block(UINT32_MAX) && !dequant_knows(5) &&
       dtype_named("Q9_9") == UINT32_MAX && dtype_named("q4_k") == DBRX_Q4_K,
       "types that are none");
    return done();
}
