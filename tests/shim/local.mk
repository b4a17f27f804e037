# shim.so wraps a backend: it checks how the host calls it and fails on request
check_LTLIBRARIES += %D%/shim.la
%C%_shim_la_SOURCES = %D%/shim.c
%C%_shim_la_LDFLAGS = $(MODULE_FLAGS) -rpath /nowhere
%C%_shim_la_LIBADD = libplugins.la
AM_TESTS_ENVIRONMENT += SHIMS='$(abs_top_builddir)/tests/shim/.libs'; export SHIMS;

# a switch of backends with a fault at every call of it
check_PROGRAMS += %D%/switch
TESTS += %D%/switch
%C%_switch_LDADD = librepl.la libmodel.la libplugins.la -lm
