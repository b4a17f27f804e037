/* backends/cpu-blas/transpose.h -- 16 x 16 numbers of 32 bits turned in registers. */
#include <immintrin.h>
#include <stddef.h>

/* r[i] lane j <-> r[j] lane i */
static inline __attribute__((always_inline)) void transpose(__m512i r[16])
{
    __m512i t[16];
    _Pragma("GCC unroll 8")
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    _Pragma("GCC unroll 4")
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    _Pragma("GCC unroll 4")
    for (int i = 0; i < 4; i++)
        _Pragma("GCC unroll 2")
        for (int h = 0; h < 16; h += 8) {
            t[h + i] = _mm512_shuffle_i32x4(r[h + i], r[h + i + 4], 0x88);
            t[h + i + 4] = _mm512_shuffle_i32x4(r[h + i], r[h + i + 4], 0xdd);
        }
    _Pragma("GCC unroll 8")
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* sums[rows][v][16 tokens] -> y[tokens][rows], n <= 16 v tokens */
static inline void turn(float *y, size_t ldy, const float *sums, size_t rows, size_t v, size_t n)
{
    for (size_t i = 0; i < v && 16 * i < n; i++)
        for (size_t r = 0; r < rows; r += 16) {
            __m512i t[16];
            __mmask16 some = rows - r >= 16 ? 0xffff : (__mmask16)((1u << (rows - r)) - 1);
            _Pragma("GCC unroll 16")
            for (size_t j = 0; j < 16; j++)
                t[j] = r + j < rows ? _mm512_loadu_si512(sums + ((r + j) * v + i) * 16)
                                    : _mm512_setzero_si512();
            transpose(t);
            _Pragma("GCC unroll 16")
            for (size_t j = 0; j < 16; j++)
                if (16 * i + j < n)
                    _mm512_mask_storeu_epi32(y + (16 * i + j) * ldy + r, some, t[j]);
        }
}
