# --- checkpoint reader: make bench/checkpoint
EXTRA_PROGRAMS += %D%/checkpoint
CLEANFILES += %D%/checkpoint$(EXEEXT)
%C%_checkpoint_SOURCES = %D%/checkpoint.c tests/unit/model_files.h
%C%_checkpoint_LDADD = libmodel.la

# --- backends
EXTRA_PROGRAMS += %D%/backends
%C%_backends_LDADD = libmodel.la libplugins.la -lm

# ---- tokenizer: bench/tokenizer builds and drives it
EXTRA_PROGRAMS += bench/tok-speed
CLEANFILES     += bench/tok-speed$(EXEEXT)
EXTRA_DIST     += %D%/tokenizer
bench_tok_speed_SOURCES = %D%/tok-speed.c
bench_tok_speed_CFLAGS  = $(AM_CFLAGS) $(CJSON_CFLAGS)
bench_tok_speed_LDADD   = libtokenizer.la $(CJSON_LIBS)

# ---- constrained generation: bench/grammar VOCAB GRAMMAR TEXT
EXTRA_PROGRAMS += bench/grammar
CLEANFILES     += bench/grammar$(EXEEXT)
bench_grammar_SOURCES = %D%/grammar.c
bench_grammar_CFLAGS  = $(AM_CFLAGS) $(CJSON_CFLAGS)
bench_grammar_LDADD   = librepl.la libtokenizer.la $(CJSON_LIBS)

# --- sampler: make bench/sampler
EXTRA_PROGRAMS += %D%/sampler
CLEANFILES     += %D%/sampler$(EXEEXT)
%C%_sampler_LDADD = librepl.la -lm

# --- the shell: bench/progress
EXTRA_DIST += %D%/progress
