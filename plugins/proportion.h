/* plugins/proportion.h -- shares of tokens that come in clusters, and intervals for their
 * difference.  For the code on either side of the dlopen line; not part of the ABI.
 *
 * Tokens of one text are alike, so a share of n tokens is known less well than n coins would
 * say.  A piece of text is a cluster; the variance of a share x/m is that of a ratio over the
 * clusters (linearised; Cochran, Sampling Techniques, 1977, 6.3), and the number of independent
 * tokens that would have as much is the effective sample size.  Wilson's interval for that
 * many (E. B. Wilson, JASA 22, 1927; with effective sizes: Dean & Pagano, Survey Methodology
 * 41, 2015) becomes an interval for the difference of two shares by Newcombe's method 10
 * (R. G. Newcombe, Statistics in Medicine 17, 1998). */
#ifndef DBRX_PLUGINS_PROPORTION_H
#define DBRX_PLUGINS_PROPORTION_H

#include <math.h>
#include <stdint.h>

/* Clusters i = 1..n with m_i tokens, x_i of which have a property. */
struct share {                             /* zero-initialise */
    double x, xx, xm;                      /* sums of x_i, x_i^2, x_i m_i                */
};
struct sizes {                             /* the same for all properties; zero-initialise */
    double n, m, mm;                       /* clusters; sums of m_i, m_i^2               */
};
struct interval { double lo, hi; };

static inline double share_of(const struct share *s, const struct sizes *z)
{
    return z->m > 0 ? s->x / z->m : NAN;
}

/* Design effect: the variance over that of independent tokens, at least 1; NaN for fewer than
 * two clusters.  A property of no token, or of all, has no variance: 0, for the caller to fill. */
static inline double share_design(const struct share *s, const struct sizes *z)
{
    double p = share_of(s, z), simple = p * (1 - p) / z->m;
    if (z->n < 2)
        return NAN;
    if (!(simple > 0))
        return 0;
    double var = z->n / (z->n - 1) / (z->m * z->m) * (s->xx - 2 * p * s->xm + p * p * z->mm);
    return var > simple ? var / simple : 1;
}

/* Wilson's interval for share p of n (effective) tokens, z standard deviations wide. */
static inline struct interval share_wilson(double p, double n, double z)
{
    double mid = (p + z * z / (2 * n)) / (1 + z * z / n);
    double half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n));
    return (struct interval){ mid - half > 0 ? mid - half : 0, mid + half < 1 ? mid + half : 1 };
}

/* Newcombe's, for pa - pb. */
static inline struct interval share_newcombe(double pa, struct interval a, double pb, struct interval b)
{
    double d = pa - pb;
    return (struct interval){ d - sqrt((pa - a.lo) * (pa - a.lo) + (b.hi - pb) * (b.hi - pb)),
                              d + sqrt((a.hi - pa) * (a.hi - pa) + (pb - b.lo) * (pb - b.lo)) };
}

/* Two-sided quantile: |t| stays below it with probability `level`, Student's t with df degrees
 * of freedom (Cornish and Fisher's expansion; good to 1% from df = 4). */
static inline double share_quantile(double level, double df)
{
    double lo = 0, hi = 40;
    for (int i = 0; i < 80; i++) {         /* the normal one, by bisection */
        double z = (lo + hi) / 2;
        if (erfc(z / sqrt(2)) > 1 - level)
            lo = z;
        else
            hi = z;
    }
    double z = (lo + hi) / 2, z3 = z * z * z, z5 = z3 * z * z, z7 = z5 * z * z;
    return z + (z3 + z) / (4 * df) + (5 * z5 + 16 * z3 + 3 * z) / (96 * df * df) +
           (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * df * df * df);
}

#endif
