# Every test speaks TAP; automake's driver counts single checks.
TEST_EXTENSIONS = .sh
LOG_DRIVER    = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
SH_LOG_DRIVER = $(LOG_DRIVER)
SH_LOG_COMPILER = $(SHELL)
# what a test may rely on: the built program, the source tree, the tools it was built with
AM_TESTS_ENVIRONMENT = \
  DBRX='$(abs_top_builddir)/dbrx$(EXEEXT)' MODULES='$(abs_top_builddir)/modules' \
  srcdir='$(abs_top_srcdir)' builddir='$(abs_top_builddir)' CC='$(CC)' CXX='$(CXX)' NVCC='$(NVCC)' \
  PYTHONPATH="$(abs_top_srcdir)/tests$${PYTHONPATH:+:$$PYTHONPATH}" LC_ALL=C.UTF-8; \
  export DBRX MODULES srcdir builddir CC CXX NVCC PYTHONPATH LC_ALL;

EXTRA_DIST += %D%/tap.h %D%/quiet_host.h %D%/common.py %D%/screen.py %D%/checkpoints.py %D%/each.sh

include tests/unit/local.mk
include tests/golden/local.mk
include tests/conformance/local.mk
include tests/shim/local.mk
include tests/cuda-emu/local.mk
include tests/fake-cuda/local.mk
include tests/cli/local.mk
include tests/sampling/local.mk
include tests/route/local.mk
include tests/steer/local.mk
include tests/instruments/local.mk
include tests/fuzz/local.mk
include tests/hostile/local.mk
include tests/sanitizers/local.mk
include tests/static/local.mk

# make check-coverage [COVERAGE_TESTS='tests/unit/grammar ...']: which lines they run, in a build of its own
# in coverage/; docs/testing.py reads what is there.  Without the sanitizers: they are another suite.
COVERAGE_TESTS = $(TESTS)
check-coverage:
	$(MKDIR_P) coverage
	cd coverage && { test -f config.status || ac_cv_sanitize=no $(abs_top_srcdir)/configure \
	  CC='$(CC)' CFLAGS='-g -O0 --coverage -fprofile-update=atomic'; }
	$(MAKE) -C coverage
	find coverage -name '*.gcda' -exec rm -f {} +
	-$(MAKE) -C coverage -k check TESTS='$(COVERAGE_TESTS)'
	$(abs_top_srcdir)/docs/testing.py . --coverage
.PHONY: check-coverage
