# make check-static: cppcheck and clang-tidy, as far as they are installed; STATIC=cppcheck takes seconds
STATIC =
check-static: all
	CUDA='$(NVCC)' SIMD='$(STATIC_SIMD)' INCLUDES='$(CJSON_CFLAGS) $(MINIZIP_CFLAGS) $(OPENBLAS_CFLAGS) $(READLINE_CFLAGS) $(CUDA_CPPFLAGS)' \
	  srcdir='$(srcdir)' $(SHELL) $(srcdir)/%D%/run.sh $(STATIC)
if HAVE_X86_64
# every instruction set at once
STATIC_SIMD = $(AVX512_CFLAGS) -mbmi2 -mavx512vbmi -mavx512vnni -mavx512bf16 -mamx-tile -mamx-bf16
endif
.PHONY: check-static
CLEANFILES += check-cppcheck.log check-clang-tidy.log
EXTRA_DIST += .clang-tidy %D%/run.sh %D%/cppcheck.supp
