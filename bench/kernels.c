/* bench/kernels.c -- the CPU backend's inner loops alone, one thread, weights in cache, beside what
 * the core can do.
 *
 *   make bench/kernels && bench/kernels
 *
 * Best of many short runs, so that a busy machine does not blur it.  Products of 128 tokens
 * (what an expert gets of 512) are given as a share of the peak of vdpbf16ps or vpdpbusd (int8: the way
 * up with SiLU), probed in turn with them; products of one token in GB of weights a second, to be held against the memory's. */
#include "backends/backend.h"
#include "backends/cpu-blas/cpu_blas.h"
#include "backends/cpu-blas/isa.h"

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REPS = 2000, COLS = 1024, ROWS = 192, TOKENS = 128 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double best(double a, double b) { return a < b ? a : b; }

/* seconds for 20000 rounds of 24 independent products of 64 bytes */
__attribute__((target("avx512f,avx512vnni"))) static double peak_int8(void)
{
    __m512i a[24], x = _mm512_set1_epi8(1);
    _Pragma("GCC unroll 24")
    for (int i = 0; i < 24; i++)
        a[i] = _mm512_setzero_si512();
    double t0 = now();
    for (int r = 0; r < 20000; r++)
        _Pragma("GCC unroll 24")
        for (int i = 0; i < 24; i++) {
            a[i] = _mm512_dpbusd_epi32(a[i], x, x);
            __asm__ volatile("" : "+v"(a[i]));
        }
    return now() - t0;
}

/* seconds for 20000 rounds of 24 independent products of 32 pairs */
__attribute__((target("avx512f,avx512bf16"))) static double peak(void)
{
    __m512 a[24];
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    _Pragma("GCC unroll 24")
    for (int i = 0; i < 24; i++)
        a[i] = _mm512_setzero_ps();
    double t0 = now();
    for (int r = 0; r < 20000; r++)
        _Pragma("GCC unroll 24")
        for (int i = 0; i < 24; i++) {
            a[i] = _mm512_dpbf16_ps(a[i], x, x);
            __asm__ volatile("" : "+v"(a[i]));
        }
    return now() - t0;
}

int main(void)
{
    static const uint32_t types[] = {
        DBRX_F32, DBRX_F16, DBRX_BF16, DBRX_Q8_0, DBRX_Q4_0, DBRX_Q4_1, DBRX_Q5_0, DBRX_Q5_1, DBRX_Q2_K,
        DBRX_Q3_K, DBRX_Q4_K, DBRX_Q5_K, DBRX_Q6_K, DBRX_IQ4_NL, DBRX_IQ4_XS
    };
    const struct kernels *k = kernels_get(NULL);
    float *x = calloc(TOKENS * COLS, sizeof *x), *y = calloc(TOKENS * ROWS, sizeof *y);
    char *w = aligned_alloc(64, 4 * ROWS * COLS);
    uint16_t *opened = aligned_alloc(64, 64 + 2 * ROWS * COLS), *packed = aligned_alloc(64, 8 * TOKENS * COLS);
    uint16_t *hidden = aligned_alloc(64, 2 * TOKENS * ROWS);
    void *quant = aligned_alloc(64, quant_bytes(COLS));
    if (!x || !y || !w || !opened || !packed || !hidden || !quant || !isa_vnni()) {
        fprintf(stderr, "bench/kernels: this CPU has no AVX512-VNNI\n");
        return 1;
    }
    memset(w, 0, 4 * ROWS * COLS);
    quant_vnni.pack(quant, x, COLS);
    if (isa_bf16()) {
        const struct gemm *g[] = { &gemm_bf16, &gemm_bf16x2 };
        for (int i = 0; i < 2; i++) {
            double top = 1, own = 1;
            memset(packed, 0, 8 * TOKENS * COLS);
            for (int r = 0; r < REPS / 4; r++) {
                top = best(top, peak());
                double t0 = now();
                g[i]->linear(y, ROWS, packed, TOKENS, &(struct gemm_rows){ .at = w }, ROWS, COLS);
                own = best(own, now() - t0);
            }
            double flops = 2. * TOKENS * ROWS * COLS / own, all = 20000. * 24 * 64 / top;
            printf("%-7s %d tokens x %d x %d: %.0f GFLOP/s, %.0f%% of the core's peak (%.0f)\n", g[i]->name,
                   TOKENS, ROWS, COLS, flops * 1e-9, 100 * flops * (i + 1) / all, all * 1e-9);
        }
    }
    printf("%-8s %16s %18s %18s %22s %16s\n", "type", "one token GB/s", "to BF16 Gweights/s", "to bytes Gweights/s",
           "128 tokens, int8 GOP/s", "int16 GOP/s");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        double mv = 1, open = 1, bytes = 1, gemm = 1, gemm16 = 1, top = 1;
        int type = kernels_type(types[i]);
        for (int r = 0; r < REPS; r++) {
            double t0 = now();
            if (type >= 0)
                k->matvec[type](y, w, ROWS, COLS, COLS, x, NULL);
            else
                quant_vnni.matvec(types[i], y, w, ROWS, COLS, quant, NULL);
            mv = best(mv, now() - t0);
            t0 = now();
            if (isa_bf16())
                gemm_bf16.open(types[i], opened, w, ROWS, COLS);
            open = best(open, now() - t0);
            if (dtype_block(types[i]) == 1)
                continue;
            t0 = now();
            gemm_int8.open(types[i], opened, w, ROWS, COLS);
            bytes = best(bytes, now() - t0);
            if (r >= REPS / 10)
                continue;
            top = best(top, peak_int8());
            t0 = now();
            gemm_int16.linear(y, ROWS, packed, TOKENS, &(struct gemm_rows){ .at = opened }, ROWS, COLS);
            gemm16 = best(gemm16, now() - t0);
            const struct gemm_rows half = { .at = opened };
            gemm_int8.open(types[i], opened, w, ROWS / 2, COLS);
            t0 = now();
            gemm_int8.up(hidden, ROWS, 0, packed, TOKENS, &half, &half, ROWS / 2, COLS);
            gemm = best(gemm, now() - t0);
        }
        const double ops = 2. * TOKENS * ROWS * COLS, peak_ops = 20000. * 24 * 128 / top;
        printf("%-8s %16.1f %18.1f", dtype_name(types[i]),
               (double)dtype_bytes(types[i], ROWS * COLS) / mv * 1e-9, ROWS * COLS / open * 1e-9);
        if (dtype_block(types[i]) > 1)
            printf(" %18.1f %8.0f, %.0f%% of %.0f %12.0f, %.0f%%", ROWS * COLS / bytes * 1e-9, ops / gemm * 1e-9,
                   100 * ops / gemm / peak_ops, peak_ops * 1e-9, ops / gemm16 * 1e-9, 200 * ops / gemm16 / peak_ops);
        printf("\n");
    }
    void *const all[] = { x, y, w, opened, packed, hidden, quant };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    return 0;
}
