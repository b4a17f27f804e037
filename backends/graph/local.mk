# The forward pass over an ops table; every CPU backend links it.
noinst_LTLIBRARIES += libgraph.la
libgraph_la_SOURCES = %D%/graph.h %D%/graph.c %D%/check.h %D%/check.c %D%/inputs.h %D%/inputs.c %D%/session.c %D%/route.h %D%/route.c \
  %D%/ops.h %D%/ops.c %D%/kv.h %D%/kv.c %D%/dequant.h %D%/dequant.c %D%/dtype.h %D%/dtype.c
