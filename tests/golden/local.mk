# Golden outputs of the reference code, and proof that they bite: mutants.sh builds wrong
# forward passes and expects each to be noticed.

# The backends that golden.sh and conformance.sh test, as far as they are built, some once more
# with other options (NAME:option=value,...): add yours here.
BACKENDS_TESTED = ref cpu-blas cpu-blas:isa=plain,threads=1 cpu-blas:deterministic=1 $(ISAS_TESTED) cuda cuda-emu
# options that store activations or KV in fewer bits: golden.sh alone, to fewer digits
BACKENDS_ROUNDED = cpu-blas:precision=fast cpu-blas:kv=q8_0 cpu-blas:kv=q8_0,isa=avx2 \
  cpu-blas:kv=q8_0,isa=plain cuda-emu:precision=fast
# every instruction set that this machine has
ISAS_TESTED = `for i in avx2:avx2 avx512:avx512bw avx512bf16:avx512_bf16; do \
  if grep -qsw "$${i\#*:}" /proc/cpuinfo; then echo "cpu-blas:isa=$${i%:*}"; fi; done`
AM_TESTS_ENVIRONMENT += BACKENDS="$(BACKENDS_TESTED)" ROUNDED='$(BACKENDS_ROUNDED)'; \
  export BACKENDS ROUNDED;

check_PROGRAMS += %D%/golden
%C%_golden_SOURCES = %D%/golden.c
%C%_golden_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
%C%_golden_LDADD = libplugins.la libmodel.la $(CJSON_LIBS) -lm
TESTS += %D%/golden.sh %D%/gguf.sh %D%/types.sh %D%/mutants.sh
EXTRA_DIST += %D%/golden.sh %D%/gguf.sh %D%/types.sh %D%/mutants.sh
