# make check-asan, check-tsan: builds of their own, below this one, with the sanitizers in all of
# it, modules too; see run.sh.  ASAN_TESTS=... and TSAN_TESTS=... are what is run of the suite: all
# of it, and what has threads: the pool and its kernels, cpu-blas whole, switches of backends,
# interrupts and progress on a terminal, quantisation, the first look at a large vocabulary.
ASAN_TESTS =
TSAN_TESTS = tests/unit/kernels tests/unit/core tests/shim/switch tests/conformance/conformance.sh \
  tests/cli/switching.sh tests/cli/terminal.sh tests/cli/weights.sh tests/unit/tokenize.sh tests/instruments/specialists.sh
SANITIZED = +MAKE='$(MAKE)' srcdir='$(srcdir)' $(SHELL) $(srcdir)/%D%/run.sh
check-asan:
	$(SANITIZED) address $(ASAN_TESTS)
check-tsan:
	$(SANITIZED) thread $(TSAN_TESTS)
clean-local: clean-sanitizers
clean-sanitizers:
	rm -rf asan tsan
.PHONY: check-asan check-tsan clean-sanitizers
EXTRA_DIST += %D%/run.sh %D%/lsan.supp %D%/tsan.supp
