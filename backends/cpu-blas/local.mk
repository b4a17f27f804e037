modules_LTLIBRARIES += cpu-blas.la
noinst_LTLIBRARIES  += libcpu.la
# what is under test on its own: everything but the module's table
libcpu_la_SOURCES = %D%/ops.c %D%/cpu_blas.h %D%/blas.h %D%/blas.c %D%/pool.h %D%/pool.c \
  %D%/kernels.h %D%/kernels.c %D%/simd.h %D%/avx2.c %D%/avx512.c
libcpu_la_CFLAGS  = $(AM_CFLAGS) $(OPENBLAS_CFLAGS)
cpu_blas_la_SOURCES = %D%/cpu_blas.c
cpu_blas_la_LDFLAGS = $(MODULE_FLAGS)
cpu_blas_la_LIBADD  = libcpu.la libgraph.la
