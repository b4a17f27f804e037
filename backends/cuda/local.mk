# The host's side of the cuda backend: linked with driver.c it is cuda.so, with the emulation of the
# tests cuda-emu.so (see docs/cuda.md).
if HAVE_NVCC
modules_LTLIBRARIES += cuda.la
noinst_LTLIBRARIES  += libcudahost.la
cuda_la_SOURCES  = %D%/module.c %D%/driver.h %D%/driver.c %D%/gpu.c
cuda_la_CPPFLAGS = $(AM_CPPFLAGS) $(CUDA_CPPFLAGS) -DKERNELS_FATBIN='"$(abs_builddir)/%D%/kernels.fatbin"'
cuda_la_LDFLAGS  = $(MODULE_FLAGS)
cuda_la_LIBADD   = libcudahost.la -lm
# by a variable: automake would take a rule of this name for its own
CUDA_EMBEDS = %D%/cuda_la-gpu.lo
$(CUDA_EMBEDS): %D%/kernels.fatbin
NVCC_FLAGS = -O3 -std=c++17 -I$(srcdir) -gencode arch=compute_80,code=sm_80 \
  -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90
%D%/kernels.fatbin: $(CUDA_KERNELS) $(CUDA_INCLUDED)
	$(AM_V_at)$(MKDIR_P) %D%
	$(AM_V_GEN)$(NVCC) $(NVCC_FLAGS) -fatbin -o $@ $(srcdir)/%D%/kernels.cu
CLEANFILES += %D%/kernels.fatbin
else
check_LTLIBRARIES += libcudahost.la
endif
CUDA_INCLUDED = $(srcdir)/%D%/args.h $(srcdir)/%D%/planes.h $(srcdir)/%D%/kernel_list.h
libcudahost_la_SOURCES = %D%/args.h %D%/planes.h %D%/kernel_list.h %D%/gpu.h %D%/model.h %D%/model.c %D%/plan.c \
  %D%/session.h %D%/session.c %D%/pass.h %D%/pass.c %D%/forward.c %D%/kv.c %D%/watch.c %D%/cuda.h %D%/cuda.c
libcudahost_la_LIBADD = libgraph.la
CUDA_KERNELS = $(srcdir)/%D%/kernels.cu $(srcdir)/%D%/base.cuh $(srcdir)/%D%/weights.cuh $(srcdir)/%D%/dense.cuh $(srcdir)/%D%/tensor.cuh $(srcdir)/%D%/flash.cuh \
  $(srcdir)/%D%/experts.cuh $(srcdir)/%D%/attend.cuh $(srcdir)/%D%/route.cuh
EXTRA_DIST += $(CUDA_KERNELS)
