nobase_pkginclude_HEADERS += %D%/abi.h %D%/observer.h
pkgconfig_DATA = %D%/dbrx.pc

noinst_LTLIBRARIES += libplugins.la
libplugins_la_SOURCES = %D%/loader.c %D%/loader.h %D%/fail.h

# --- instruments: each a module of its own, over observer.h alone
modules_LTLIBRARIES += experts.la
experts_la_SOURCES = %D%/experts/experts.c
experts_la_LDFLAGS = $(MODULE_FLAGS)
experts_la_LIBADD = -lm
