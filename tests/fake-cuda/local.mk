# A CUDA driver without a device: libcuda.so.1, and cuda.so as its own driver.c and gpu.c make it, both over
# a cuda.h of the tests, so that neither toolkit nor GPU is needed.  The "kernels" are any file.
check_LTLIBRARIES += %D%/driver/libcuda.la %D%/cuda.la
%C%_driver_libcuda_la_SOURCES  = %D%/cuda.h %D%/libcuda.cc
%C%_driver_libcuda_la_CXXFLAGS = $(EMU_CXXFLAGS)
%C%_driver_libcuda_la_LDFLAGS  = -shared -no-undefined -version-info 1:0:0 -rpath /nowhere
%C%_driver_libcuda_la_LIBADD   = tests/cuda-emu/libcudaemu.la libgraph.la -lm
%C%_cuda_la_SOURCES  = backends/cuda/module.c backends/cuda/driver.h backends/cuda/driver.c backends/cuda/gpu.c
%C%_cuda_la_CPPFLAGS = $(AM_CPPFLAGS) -I$(srcdir)/%D% -DKERNELS_FATBIN='"$(abs_srcdir)/%D%/cuda.h"'
%C%_cuda_la_LDFLAGS  = $(MODULE_FLAGS) -rpath /nowhere
%C%_cuda_la_LIBADD   = libcudahost.la -lm
AM_TESTS_ENVIRONMENT += FAKE='$(abs_top_builddir)/tests/fake-cuda/.libs'; export FAKE;
TESTS += %D%/driver.sh
EXTRA_DIST += %D%/driver.sh
