# --- checkpoint reader
check_PROGRAMS += %D%/checkpoint %D%/checkpoint-hostile
TESTS += %D%/checkpoint %D%/checkpoint-hostile
%C%_checkpoint_SOURCES = %D%/checkpoint.c %D%/model_files.h
%C%_checkpoint_LDADD = libmodel.la -lm
%C%_checkpoint_hostile_SOURCES = %D%/checkpoint-hostile.c %D%/model_files.h
%C%_checkpoint_hostile_LDADD = libmodel.la
EXTRA_DIST += tests/data

# --- cpu-blas's parts, and the shell's core
check_PROGRAMS += %D%/kernels %D%/core
TESTS += %D%/kernels %D%/core
%C%_kernels_LDADD = libcpu.la libgraph.la -lm
%C%_core_LDADD = librepl.la libmodel.la libplugins.la -lm

# --- what is seen on both sides of dlopen, and who sees what
TESTS += %D%/headers.sh %D%/includes.sh %D%/install.sh
EXTRA_DIST += %D%/headers.sh %D%/includes.sh %D%/install.sh %D%/elsewhere.c
AM_TESTS_ENVIRONMENT += PKG_CONFIG='$(PKG_CONFIG)' MAKE='$(MAKE)'; export PKG_CONFIG MAKE;
