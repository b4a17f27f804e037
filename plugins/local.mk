nobase_pkginclude_HEADERS += %D%/abi.h %D%/observer.h
pkgconfig_DATA = %D%/dbrx.pc

noinst_LTLIBRARIES += libplugins.la
libplugins_la_SOURCES = %D%/loader.c %D%/loader.h %D%/fail.h
