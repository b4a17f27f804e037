nobase_pkginclude_HEADERS += %D%/abi.h %D%/observer.h
pkgconfig_DATA = %D%/dbrx.pc

noinst_LTLIBRARIES += libplugins.la
libplugins_la_SOURCES = %D%/loader.c %D%/loader.h %D%/fail.h

# --- instruments: each a module of its own, over observer.h alone
modules_LTLIBRARIES += experts.la coactivation.la top.la contrast.la watch.la
experts_la_SOURCES      = %D%/experts/experts.c
experts_la_LDFLAGS      = $(MODULE_FLAGS)
experts_la_LIBADD       = -lm
coactivation_la_SOURCES = %D%/coactivation/coactivation.c
coactivation_la_LDFLAGS = $(MODULE_FLAGS)
coactivation_la_LIBADD  = -lm
watch_la_SOURCES        = %D%/watch/watch.c
watch_la_LDFLAGS        = $(MODULE_FLAGS)
top_la_SOURCES          = %D%/top/top.c
top_la_LDFLAGS          = $(MODULE_FLAGS)
contrast_la_SOURCES     = %D%/contrast/contrast.c %D%/proportion.h
contrast_la_LDFLAGS     = $(MODULE_FLAGS)
contrast_la_LIBADD      = -lm
