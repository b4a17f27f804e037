# Does a backend keep the contract of backends/backend.h?  Also for backends of others:
#     tests/conformance/conformance FILE.so [option=value...]
# installed as `pkg-config --variable=conformance dbrx` says; see docs/writing-a-backend.md
pkglibexec_PROGRAMS = %D%/conformance
%C%_conformance_SOURCES = %D%/conformance.h %D%/conformance.c %D%/model.c %D%/record.c \
  %D%/routing.c %D%/checks_module.c %D%/checks_open.c %D%/checks_eval.c %D%/checks_stop.c \
  %D%/checks_route.c %D%/checks_steer.c %D%/checks_tap.c %D%/checks_kv.c %D%/checks_resume.c \
  %D%/checks_repro.c
%C%_conformance_LDADD = libplugins.la -lm

# broken.so keeps every rule but the one it is told to break
check_LTLIBRARIES += %D%/broken.la
%C%_broken_la_SOURCES = %D%/broken.c
%C%_broken_la_LDFLAGS = $(MODULE_FLAGS) -rpath /nowhere
%C%_broken_la_LIBADD = libgraph.la

TESTS += %D%/conformance.sh %D%/negative.sh
EXTRA_DIST += %D%/conformance.sh %D%/negative.sh
