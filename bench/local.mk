# --- checkpoint reader: make bench/checkpoint
EXTRA_PROGRAMS += %D%/checkpoint
CLEANFILES += %D%/checkpoint$(EXEEXT)
%C%_checkpoint_SOURCES = %D%/checkpoint.c tests/unit/model_files.h
%C%_checkpoint_LDADD = libmodel.la

# --- backends
EXTRA_PROGRAMS += %D%/backends
%C%_backends_LDADD = libmodel.la libplugins.la -lm
