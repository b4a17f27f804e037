# Lines made from the table of commands, against a shell built with the sanitizers; all of it is
# compiled once more for that.  More than make check does: tests/fuzz/commands SEED LINES
check_PROGRAMS += %D%/commands
TESTS          += %D%/commands
%C%_commands_SOURCES  = %D%/commands.c $(libshell_la_SOURCES) $(librepl_la_SOURCES) $(libplugins_la_SOURCES) \
  $(libmodel_la_SOURCES) $(libtokenizer_la_SOURCES)
%C%_commands_CPPFLAGS = $(libshell_la_CPPFLAGS)
%C%_commands_CFLAGS   = $(libshell_la_CFLAGS) $(SANITIZE)
%C%_commands_LDADD    = $(READLINE_LIBS) $(CJSON_LIBS) $(MINIZIP_LIBS) -lm

# Strangers' grammars, for libFuzzer
EXTRA_DIST += %D%/grammar.c
