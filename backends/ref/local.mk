modules_LTLIBRARIES += ref.la
ref_la_SOURCES = %D%/ref.c
ref_la_LDFLAGS = $(MODULE_FLAGS)
ref_la_LIBADD  = libgraph.la
