# ---- tokenizer: bench/tokenizer builds and drives it
EXTRA_PROGRAMS += bench/tok-speed
CLEANFILES     += bench/tok-speed$(EXEEXT)
EXTRA_DIST     += %D%/tokenizer
bench_tok_speed_SOURCES = %D%/tok-speed.c
bench_tok_speed_CFLAGS  = $(AM_CFLAGS) $(CJSON_CFLAGS)
bench_tok_speed_LDADD   = libtokenizer.la $(CJSON_LIBS)
