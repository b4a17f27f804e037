# cuda-emu.so: the cuda backend with its kernels compiled for the CPU, for machines without a GPU.
# Linked as C: libtool's way of linking C++ loses the names that a conformance check looks at.
check_LTLIBRARIES += %D%/libcudaemu.la %D%/cuda-emu.la
%C%_libcudaemu_la_SOURCES  = %D%/emu.h %D%/fibers.cc %D%/gpu_emu.cc %D%/kernels.cc
%C%_libcudaemu_la_CXXFLAGS = $(EMU_CXXFLAGS)
%C%_cuda_emu_la_SOURCES  = %D%/module.c
%C%_cuda_emu_la_LDFLAGS  = $(MODULE_FLAGS) -rpath /nowhere
%C%_cuda_emu_la_LIBADD   = libcudahost.la %D%/libcudaemu.la -lstdc++ -lm
# an int index into unsigned sizes is how kernels are written
EMU_CXXFLAGS = -std=c++17 -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion $(WARN_CXXFLAGS) -fvisibility=hidden -ftls-model=initial-exec
AM_TESTS_ENVIRONMENT += EMULATED='$(abs_top_builddir)/tests/cuda-emu/.libs'; export EMULATED;

# every kernel once more, under the sanitizers
check_LTLIBRARIES += %D%/libemulated.la
%C%_libemulated_la_SOURCES  = %D%/fibers.cc %D%/gpu_emu.cc %D%/kernels.cc $(libcudahost_la_SOURCES) $(libgraph_la_SOURCES)
%C%_libemulated_la_CFLAGS   = $(AM_CFLAGS) $(SANITIZE)
%C%_libemulated_la_CXXFLAGS = $(EMU_CXXFLAGS) $(SANITIZE)
check_PROGRAMS += %D%/emulated %D%/rounded
TESTS += %D%/emulated %D%/rounded %D%/plan.sh
EXTRA_DIST += %D%/plan.sh
%C%_emulated_SOURCES = %D%/emulated.c %D%/blocks.h
%C%_emulated_CFLAGS  = $(AM_CFLAGS) $(SANITIZE)
%C%_emulated_LDADD   = %D%/libemulated.la -lstdc++ -lm
%C%_rounded_SOURCES = %D%/rounded.c %D%/blocks.h
%C%_rounded_CFLAGS  = $(AM_CFLAGS) $(SANITIZE)
%C%_rounded_LDADD   = %D%/libemulated.la -lstdc++ -lm
