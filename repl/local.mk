# The core (no terminal) and the shell over it; a library, so that tests can link both.
noinst_LTLIBRARIES += librepl.la
librepl_la_SOURCES = \
  %D%/dispatch.h %D%/dispatch.c %D%/session.h %D%/session.c \
  %D%/sampler.h %D%/sampler.c %D%/trace.h %D%/trace.c \
  %D%/shell.h %D%/shell.c %D%/reply.c %D%/commands.h %D%/commands.c %D%/handlers.h %D%/handlers.c \
  %D%/route.c %D%/dump.c %D%/npy.h %D%/npy.c %D%/help.h %D%/help.c %D%/vars.h %D%/vars.c \
  %D%/words.h %D%/words.c %D%/render.h %D%/render.c %D%/line.h %D%/line.c %D%/complete.h %D%/complete.c \
  %D%/signals.h %D%/signals.c %D%/paths.h %D%/paths.c \
  %D%/inspect.h %D%/inspect.c %D%/tokenize.h %D%/tokenize.c
librepl_la_CPPFLAGS = $(AM_CPPFLAGS) -DPKGLIBDIR='"$(pkglibdir)"' -DPKGDATADIR='"$(pkgdatadir)"'
librepl_la_CFLAGS = $(AM_CFLAGS) $(READLINE_CFLAGS) $(CJSON_CFLAGS)
librepl_la_LIBADD = libplugins.la libmodel.la libtokenizer.la $(READLINE_LIBS) $(CJSON_LIBS)

bin_PROGRAMS += dbrx
dbrx_SOURCES = %D%/main.c
dbrx_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
dbrx_LDADD = librepl.la
