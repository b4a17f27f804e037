# --- checkpoint reader
check_PROGRAMS += %D%/checkpoint %D%/checkpoint-hostile
TESTS += %D%/checkpoint %D%/checkpoint-hostile
%C%_checkpoint_SOURCES = %D%/checkpoint.c %D%/model_files.h
%C%_checkpoint_LDADD = libmodel.la -lm
%C%_checkpoint_hostile_SOURCES = %D%/checkpoint-hostile.c %D%/model_files.h
%C%_checkpoint_hostile_LDADD = libmodel.la
EXTRA_DIST += tests/data
