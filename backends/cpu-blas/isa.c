/* backends/cpu-blas/isa.c -- what the CPU can do.  See isa.h. */
#define _GNU_SOURCE
#include "backends/cpu-blas/isa.h"

#ifdef __x86_64__
#include <cpuid.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

int isa_avx2(void)
{
    unsigned a, b, c, d;                   /* clang's builtin does not know F16C */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}

int isa_avx512(void)
{
    return isa_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

int isa_vnni(void)
{
    return isa_avx512() && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("bmi2");
}

int isa_bf16(void)
{
    return isa_vnni() && __builtin_cpu_supports("avx512bf16");
}

static int amx;

/* Linux gives a process the 8 KB of tile registers only on request (since 5.16); threads
 * made afterwards have them, too. */
static void ask_amx(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a, b, c, d;
    amx = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1) /* AMX-TILE */ &&
          (d >> 22 & 1) /* AMX-BF16 */ && isa_bf16() &&
          !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

int isa_amx(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, ask_amx);
    return amx;
}

#else
int isa_avx2(void) { return 0; }
int isa_avx512(void) { return 0; }
int isa_vnni(void) { return 0; }
int isa_bf16(void) { return 0; }
int isa_amx(void) { return 0; }
#endif
