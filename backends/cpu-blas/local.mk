modules_LTLIBRARIES += cpu-blas.la
noinst_LTLIBRARIES  += libcpu.la
# what is under test on its own: everything but the module's table
libcpu_la_SOURCES = %D%/cpu_blas.h %D%/ops.c %D%/experts.c %D%/blas.h %D%/blas.c %D%/pool.h \
  %D%/pool.c %D%/isa.h %D%/isa.c %D%/kernels.h %D%/kernels.c %D%/simd.h %D%/simd_exp.h %D%/avx512.h \
  %D%/gemm.h %D%/gemm_bf16.h %D%/transpose.h %D%/quant.h %D%/quant_types.h \
  %D%/product.c %D%/attention.c
libcpu_la_CFLAGS  = $(AM_CFLAGS) $(OPENBLAS_CFLAGS)
libcpu_la_LIBADD  =
if HAVE_X86_64
# one library for each instruction set: only what is called after a check is compiled for it
noinst_LTLIBRARIES += libcpu-avx2.la libcpu-avx512.la libcpu-vnni.la libcpu-bf16.la libcpu-amx.la
libcpu_la_LIBADD   += libcpu-avx2.la libcpu-avx512.la libcpu-vnni.la libcpu-bf16.la libcpu-amx.la
AVX512_CFLAGS = -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl
libcpu_avx2_la_SOURCES   = %D%/avx2.c %D%/quant_avx2.c
libcpu_avx2_la_CFLAGS    = $(AM_CFLAGS) -mavx2 -mfma -mf16c
libcpu_avx512_la_SOURCES = %D%/avx512.c
libcpu_avx512_la_CFLAGS  = $(AM_CFLAGS) $(AVX512_CFLAGS)
libcpu_vnni_la_SOURCES   = %D%/quant_vnni.c %D%/gemm_int8.c
libcpu_vnni_la_CFLAGS    = $(AM_CFLAGS) $(AVX512_CFLAGS) -mbmi2 -mavx512vbmi -mavx512vnni
libcpu_bf16_la_SOURCES   = %D%/gemm_bf16.c %D%/attend_bf16.c %D%/open_bf16.c
libcpu_bf16_la_CFLAGS    = $(AM_CFLAGS) $(AVX512_CFLAGS) -mbmi2 -mavx512vbmi -mavx512bf16
libcpu_amx_la_SOURCES    = %D%/amx.c
libcpu_amx_la_CFLAGS     = $(AM_CFLAGS) $(AVX512_CFLAGS) -mavx512bf16 -mamx-tile -mamx-bf16
endif
EXTRA_DIST += %D%/avx2.c %D%/quant_avx2.c %D%/avx512.c %D%/quant_vnni.c %D%/gemm_bf16.c %D%/gemm_int8.c %D%/attend_bf16.c \
  %D%/open_bf16.c %D%/amx.c

cpu_blas_la_SOURCES = %D%/cpu_blas.c
cpu_blas_la_LDFLAGS = $(MODULE_FLAGS)
cpu_blas_la_LIBADD  = libcpu.la libgraph.la
