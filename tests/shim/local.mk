# shim.so wraps a backend: it checks how the host calls it and fails on request
check_LTLIBRARIES += %D%/shim.la
%C%_shim_la_SOURCES = %D%/shim.c
%C%_shim_la_LDFLAGS = $(MODULE_FLAGS) -rpath /nowhere
%C%_shim_la_LIBADD = libplugins.la
# ... and those that stand for the backend they wrap, for the whole suite
check_LTLIBRARIES += %D%/as/ref.la %D%/as/cpu-blas.la
%C%_as_ref_la_SOURCES = %D%/shim.c
%C%_as_ref_la_CPPFLAGS = $(AM_CPPFLAGS) -DSHIM_AS='"ref"'
%C%_as_ref_la_LDFLAGS = $(MODULE_FLAGS) -rpath /nowhere
%C%_as_ref_la_LIBADD = libplugins.la
%C%_as_cpu_blas_la_SOURCES = %D%/shim.c
%C%_as_cpu_blas_la_CPPFLAGS = $(AM_CPPFLAGS) -DSHIM_AS='"cpu-blas"'
%C%_as_cpu_blas_la_LDFLAGS = $(MODULE_FLAGS) -rpath /nowhere
%C%_as_cpu_blas_la_LIBADD = libplugins.la
AM_TESTS_ENVIRONMENT += SHIMS='$(abs_top_builddir)/tests/shim/.libs' AS='$(abs_top_builddir)/tests/shim/as/.libs'; export SHIMS AS;

# a switch of backends with a fault at every call of it
check_PROGRAMS += %D%/switch
TESTS += %D%/switch
%C%_switch_LDADD = librepl.la libmodel.la libplugins.la -lm
