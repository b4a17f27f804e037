/* backends/cpu-blas/isa.h -- what the CPU can do, and lets us do.  All [any]. */
#ifndef DBRX_CPU_ISA_H
#define DBRX_CPU_ISA_H

int isa_avx2(void);                        /* AVX2, FMA, F16C                               */
int isa_avx512(void);                      /* AVX-512 F, BW, DQ, VL                         */
int isa_vnni(void);                        /* that and AVX512-VNNI, AVX512-VBMI             */
int isa_bf16(void);                        /* that and AVX512-BF16                          */
int isa_amx(void);                         /* that and AMX-BF16; asks the
                                              kernel once for the tiles' registers          */

#endif
