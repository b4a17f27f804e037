# All below main, once more with the sanitizers: what strangers may send is tried on that.
check_LTLIBRARIES += libsanitized.la
libsanitized_la_SOURCES  = $(libshell_la_SOURCES) $(librepl_la_SOURCES) $(libplugins_la_SOURCES) \
  $(libmodel_la_SOURCES) $(libtokenizer_la_SOURCES)
libsanitized_la_CPPFLAGS = $(libshell_la_CPPFLAGS)
libsanitized_la_CFLAGS   = $(libshell_la_CFLAGS) $(SANITIZE)
libsanitized_la_LIBADD   = $(READLINE_LIBS) $(CJSON_LIBS) $(MINIZIP_LIBS) -lm

# Lines made from the table of commands.  More than make check does: tests/fuzz/commands SEED LINES
check_PROGRAMS += %D%/commands
TESTS          += %D%/commands
%C%_commands_SOURCES = %D%/commands.c
%C%_commands_CFLAGS  = $(libsanitized_la_CFLAGS)
%C%_commands_LDADD   = libsanitized.la

# Strangers' files: what the fuzzers of make check-fuzz kept of them, once more
check_PROGRAMS += %D%/replay
TESTS          += %D%/replay
FUZZ_TARGETS        = %D%/fuzz.h %D%/fuzz.c %D%/checkpoints.c %D%/texts.c %D%/rules.c %D%/shells.c \
  %D%/argv.c $(dbrx_tools)
%C%_replay_SOURCES  = $(FUZZ_TARGETS)
%C%_replay_CPPFLAGS = $(libsanitized_la_CPPFLAGS) $(PCRE2_CFLAGS)
%C%_replay_CFLAGS   = $(libsanitized_la_CFLAGS)
%C%_replay_LDADD    = libsanitized.la $(PCRE2_LIBS)
EXTRA_DIST += %D%/corpus %D%/fuzz.sh

# make check-fuzz FUZZ_SECONDS=n: each target and the commands for so long, one after the other
FUZZ_CC      = clang
FUZZ_SECONDS = 60
FUZZ_FILES = $(FUZZ_TARGETS) $(libsanitized_la_SOURCES)
%D%/fuzzer: $(FUZZ_FILES) $(nodist_libshell_la_SOURCES)
	$(AM_V_GEN)$(FUZZ_CC) -g -O1 -DLIBFUZZER -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all $(DEFS) \
	  $(DEFAULT_INCLUDES) $(libsanitized_la_CPPFLAGS) $(PCRE2_CFLAGS) $(READLINE_CFLAGS) $(CJSON_CFLAGS) $(MINIZIP_CFLAGS) \
	  -o $@ $(addprefix $(srcdir)/,$(sort $(filter %.c,$(FUZZ_FILES)))) $(libsanitized_la_LIBADD) $(PCRE2_LIBS) -ldl
check-fuzz: %D%/fuzzer %D%/commands$(EXEEXT) all
	srcdir='$(abs_top_srcdir)' MODULES='$(abs_top_builddir)/modules' $(SHELL) $(srcdir)/%D%/fuzz.sh $(FUZZ_SECONDS) $(FUZZ_ONLY)
.PHONY: check-fuzz
CLEANFILES += %D%/fuzzer
