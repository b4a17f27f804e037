noinst_LTLIBRARIES += libtokenizer.la
libtokenizer_la_SOURCES = \
  %D%/tokenizer.h %D%/tokenizer.c %D%/tok.h %D%/files.c \
  %D%/pretok.h %D%/pretok.c %D%/unicode_tables.h %D%/utf8.h %D%/stream.c \
  %D%/vocab.h %D%/vocab.c %D%/alphabet.c %D%/export.c %D%/vocab_list.c %D%/vocab_hf.c %D%/vocab_tiktoken.c \
  %D%/bpe.h %D%/bpe.c %D%/chat.h %D%/chat.c
libtokenizer_la_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
libtokenizer_la_LIBADD = $(CJSON_LIBS)
EXTRA_DIST += %D%/mkunicode.py
