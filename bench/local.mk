# --- checkpoint reader: make bench/checkpoint
EXTRA_PROGRAMS += %D%/checkpoint
CLEANFILES += %D%/checkpoint$(EXEEXT)
%C%_checkpoint_SOURCES = %D%/checkpoint.c tests/unit/model_files.h
%C%_checkpoint_LDADD = libmodel.la

# --- backends
EXTRA_PROGRAMS += %D%/backends
CLEANFILES += %D%/backends$(EXEEXT)
%C%_backends_LDADD = librepl.la libmodel.la libplugins.la -lm

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

# --- random weights of a named shape: make bench/mkmodel
EXTRA_PROGRAMS += %D%/mkmodel
CLEANFILES     += %D%/mkmodel$(EXEEXT)
%C%_mkmodel_SOURCES = %D%/mkmodel.c %D%/shape.h %D%/shape.c
%C%_mkmodel_LDADD = libmodel.la libgraph.la -lm

# --- the CPU backend beside llama.cpp: bench/cpu FILE.gguf... builds and drives it
EXTRA_PROGRAMS += %D%/cpu-speed
CLEANFILES += %D%/cpu-speed$(EXEEXT)
EXTRA_DIST += %D%/cpu
%C%_cpu_speed_SOURCES = %D%/cpu-speed.c %D%/speed.h
%C%_cpu_speed_LDADD = libmodel.la libplugins.la -lm

# --- switching: make bench/switch
EXTRA_PROGRAMS += %D%/switch
CLEANFILES     += %D%/switch$(EXEEXT)
%C%_switch_LDADD = librepl.la libmodel.la libplugins.la -lm

# --- recording: make bench/recording
EXTRA_PROGRAMS += %D%/recording
CLEANFILES     += %D%/recording$(EXEEXT)
%C%_recording_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
%C%_recording_LDADD  = libshell.la -lm

# --- the CPU backend's inner loops alone: make bench/kernels
if HAVE_X86_64
EXTRA_PROGRAMS += %D%/kernels
CLEANFILES += %D%/kernels$(EXEEXT)
%C%_kernels_CFLAGS = $(AM_CFLAGS) $(OPENBLAS_CFLAGS)
%C%_kernels_LDADD = libcpu.la libgraph.la -lm
endif

# --- a machine with a GPU: bench/gpu builds and drives it; gpu.sh holds what needs none
check_PROGRAMS += %D%/gpu-speed
%C%_gpu_speed_SOURCES = %D%/gpu-speed.c %D%/speed.h %D%/shape.h %D%/shape.c
%C%_gpu_speed_LDADD = libmodel.la libplugins.la -lm
TESTS += %D%/gpu.sh
EXTRA_DIST += %D%/gpu %D%/gpu.sh %D%/gpu-transformers.py
