noinst_LTLIBRARIES += libmodel.la
libmodel_la_SOURCES = \
  %D%/checkpoint.c \
  %D%/checkpoint.h \
  %D%/reader.h \
  %D%/config.c \
  %D%/file.c \
  %D%/fingerprint.c \
  %D%/gguf.h \
  %D%/gguf.c \
  %D%/gguf_model.c \
  %D%/gguf_write.h \
  %D%/gguf_write.c \
  %D%/imatrix.h \
  %D%/imatrix.c \
  %D%/json.c \
  %D%/quant.h \
  %D%/quant.c \
  %D%/safetensors.c \
  %D%/say.c \
  %D%/shards.c \
  backends/graph/dequant.h \
  backends/graph/dequant.c \
  backends/graph/dtype.h \
  backends/graph/dtype.c
libmodel_la_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
libmodel_la_LIBADD = $(CJSON_LIBS) -lm
