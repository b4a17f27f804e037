# The core: no terminal, no printf.  Tests link it without the shell.
noinst_LTLIBRARIES += librepl.la
librepl_la_SOURCES = %D%/dispatch.h %D%/dispatch.c %D%/session.h %D%/session.c \
  %D%/sampler.h %D%/sampler.c %D%/processors.h %D%/processors.c %D%/filters.h %D%/filters.c \
  %D%/beam.h %D%/beam.c %D%/trace.h %D%/trace.c

# The shell over it, all but main: tests link this too.
noinst_LTLIBRARIES += libshell.la
libshell_la_SOURCES = \
  %D%/shell.h %D%/shell.c %D%/reply.c %D%/commands.h %D%/commands.c %D%/handlers.h %D%/handlers.c \
  %D%/route.c %D%/dump.c %D%/npy.h %D%/npy.c %D%/help.h %D%/help.c %D%/vars.h %D%/vars.c %D%/idlist.h %D%/idlist.c \
  %D%/words.h %D%/words.c %D%/render.h %D%/render.c %D%/line.h %D%/line.c %D%/complete.h %D%/complete.c \
  %D%/signals.h %D%/signals.c %D%/paths.h %D%/paths.c
libshell_la_CPPFLAGS = $(AM_CPPFLAGS) -DPKGLIBDIR='"$(pkglibdir)"' -DPKGDATADIR='"$(pkgdatadir)"'
libshell_la_CFLAGS = $(AM_CFLAGS) $(READLINE_CFLAGS) $(CJSON_CFLAGS)
libshell_la_LIBADD = librepl.la libplugins.la libmodel.la libtokenizer.la $(READLINE_LIBS) $(CJSON_LIBS)

bin_PROGRAMS += dbrx
dbrx_SOURCES = %D%/main.c %D%/inspect.h %D%/inspect.c %D%/tokenize.h %D%/tokenize.c
dbrx_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
dbrx_LDADD = libshell.la
