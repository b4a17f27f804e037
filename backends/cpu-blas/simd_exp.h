/* backends/cpu-blas/simd_exp.h -- e^x, 2^x and silu over the abstract vector of simd.h. */
/* e^x to about 2 ulp on [-87, 88]: 2^k * e^r, r in +-ln2/2, Taylor to r^7 */
static inline VEC v_exp(VEC x)
{
    x = v_min(v_set(88.0f), v_max(v_set(-87.0f), x));     /* this order lets NaN through */
    VEC k = v_round(v_mul(x, v_set(1.44269504f)));
    VEC r = v_fma(k, v_set(-0.693359375f), x);         /* ln2 in two parts */
    r = v_fma(k, v_set(2.12194440e-4f), r);
    VEC p = v_set(1.0f / 5040);
    p = v_fma(p, r, v_set(1.0f / 720));
    p = v_fma(p, r, v_set(1.0f / 120));
    p = v_fma(p, r, v_set(1.0f / 24));
    p = v_fma(p, r, v_set(1.0f / 6));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p, r, v_set(1.0f));
    p = v_fma(p, r, v_set(1.0f));
    return v_mul(p, v_exp2i(k));
}

/* 2^x for x <= 0 to 3e-6, 0 below -126: enough for what becomes BF16 */
static inline VEC v_exp2_fast(VEC x)
{
    x = v_max(v_set(-126.0f), x);
    VEC k = v_round(x), r = v_sub(x, k), p = v_set(1.33335581e-3f);
    p = v_fma(p, r, v_set(9.61812911e-3f));
    p = v_fma(p, r, v_set(5.55041087e-2f));
    p = v_fma(p, r, v_set(2.40226507e-1f));
    p = v_fma(p, r, v_set(6.93147181e-1f));
    p = v_fma(p, r, v_set(1.0f));
    return v_mul(p, v_exp2i(k));
}

static inline VEC v_silu(VEC x)
{
    return v_div(x, v_add(v_set(1), v_exp(v_sub(v_set(0), x))));
}
