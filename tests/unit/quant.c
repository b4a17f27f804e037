/* tests/unit/quant.c -- rows to blocks: what comes back, and how far off it is.  The errors are
 * held to what llama.cpp's own quantisers reach on values of the same distribution. */
#include "backends/backend.h"
#include "backends/graph/dequant.h"
#include "backends/model/quant.h"
#include "tests/tap.h"

#include <math.h>

enum { N = 1 << 16 };
static float x[N], y[N], w[N];
static unsigned char packed[N * 4];

static uint64_t rng = 1;
static double uniform(void)
{
    rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
    return ((double)(rng >> 11) + 0.5) * 0x1p-53;
}

static double error(uint32_t type, const float *weight, const float *measure)
{
    double e = 0, p = 0;
    quant_row(type, x, N, weight, packed);
    dequant(y, packed, type, 0, N);
    for (int i = 0; i < N; i++) {
        double m = measure ? measure[i] : 1;
        e += m * ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        p += m * (double)x[i] * x[i];
    }
    return sqrt(e / p);
}

static void test_halves(void)
{
    int wrong = 0;
    for (uint32_t h = 0; h < 65536; h++)
        wrong += f32_to_f16(f16_to_f32((uint16_t)h)) != h;
    ok(!wrong, "every binary16 comes back, NaNs with their bits (%d do not)", wrong);
    wrong = 0;
    for (uint32_t h = 0; h < 65536; h++)
        wrong += f32_to_bf16(bf16_to_f32((uint16_t)h)) != h;
    ok(!wrong, "every bfloat16 comes back (%d do not)", wrong);
    wrong = 0;
    for (uint32_t h = 0; h < 0x7c00; h++) {        /* halfway to the next: to the even one */
        float a = f16_to_f32((uint16_t)h), b = h == 0x7bff ? 65536 : f16_to_f32((uint16_t)(h + 1));
        float middle = a + (b - a) / 2;
        wrong += f32_to_f16(middle) != h + (h & 1) || f32_to_f16(nextafterf(middle, 0)) != h ||
                 f32_to_f16(nextafterf(middle, INFINITY)) != h + 1 ||
                 f32_to_f16(-middle) != (h + (h & 1)) + 0x8000;
    }
    ok(!wrong, "ties go to the even binary16, all else to the nearest (%d do not)", wrong);
    ok(f32_to_f16(1e10f) == 0x7c00 && f32_to_f16(INFINITY) == 0x7c00 && f32_to_f16(1e-10f) == 0 &&
       f32_to_bf16(INFINITY) == 0x7f80 && f32_to_bf16(1.00390625f) == 0x3f80, "the ends of the range");
}

int main(void)
{
    /* llama.cpp 0.3.36 of llama-cpp-python, without importance, a million normal values */
    static const struct { uint32_t type; double llama; } types[] = {
        { DBRX_Q8_0, 0.00535 }, { DBRX_Q4_0, 0.08596 }, { DBRX_Q4_1, 0.07817 }, { DBRX_Q5_0, 0.04272 },
        { DBRX_Q5_1, 0.03784 }, { DBRX_Q4_K, 0.07129 }, { DBRX_Q5_K, 0.03611 }, { DBRX_Q6_K, 0.01775 },
    };
    test_halves();
    for (int i = 0; i < N; i++) {
        x[i] = (float)(0.02 * sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()));
        w[i] = i % 4 ? 1 : 50;
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        uint32_t t = types[i].type;
        const char *name = dtype_name(t);
        double e = error(t, NULL, NULL);
        ok(e < types[i].llama && e > types[i].llama / 2, "%s: rms error %.5f, llama.cpp's %.5f", name, e, types[i].llama);
        double plain = error(t, NULL, w), weighted = error(t, w, w);
        ok(weighted < plain, "%s: weights lower the error where they are large (%.5f to %.5f)", name, plain, weighted);
    }
    int bad = 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int kind = 0; kind < 6; kind++) {
            for (int k = 0; k < N; k++)    /* extremes: zeros, one value, huge, tiny, one sign, an outlier */
                x[k] = kind == 0 ? 0 : kind == 1 ? 0.25f : kind == 2 ? (k % 2 ? 1e30f : -1e30f)
                     : kind == 3 ? 1e-30f * (float)(k % 7) : kind == 4 ? 1 + (float)(k % 9) * 0.1f
                     : k % 256 ? 0 : 100;
            double e = error(types[i].type, NULL, NULL);
            int right = kind == 0 ? !memchr(y, 1, 0) && y[0] == 0 && y[N - 1] == 0
                      : kind == 1 || kind == 4 || kind == 5 ? e < 0.1 : 1;
            for (int k = 0; k < N; k++)
                bad += !isfinite(y[k]);
            if (!right)
                diag("%s, kind %d: error %g", dtype_name(types[i].type), kind, e);
            bad += !right;
        }
    ok(!bad, "zeros, one value, huge, tiny and lone values: finite, and near where they can be");
    ok(quant_knows(DBRX_BF16) && !quant_knows(DBRX_Q3_K) && !quant_knows(99), "types that are written");
    return done();
}
