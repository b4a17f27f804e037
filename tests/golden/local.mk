# Golden outputs of the reference code, and proof that they bite: mutants.sh builds wrong
# forward passes and expects each to be noticed.

# The backends that golden.sh and conformance.sh test, as far as they are built, some once more
# with other options (NAME:option=value,...): add yours here.
BACKENDS_TESTED = ref cpu-blas cpu-blas:isa=plain,threads=1 cuda
AM_TESTS_ENVIRONMENT += BACKENDS='$(BACKENDS_TESTED)'; export BACKENDS;

check_PROGRAMS += %D%/golden
%C%_golden_SOURCES = %D%/golden.c
%C%_golden_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
%C%_golden_LDADD = libplugins.la libmodel.la $(CJSON_LIBS) -lm
TESTS += %D%/golden.sh %D%/mutants.sh
EXTRA_DIST += %D%/golden.sh %D%/mutants.sh
