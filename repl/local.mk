# The core: no terminal, no printf.  Tests link it without the shell.
noinst_LTLIBRARIES += librepl.la
librepl_la_SOURCES = %D%/dispatch.h %D%/dispatch.c %D%/session.h %D%/session.c \
  %D%/sampler.h %D%/sampler.c %D%/trace.h %D%/trace.c
