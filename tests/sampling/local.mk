# The sampler: against transformers on recorded logits, and against a naive one.
check_PROGRAMS += %D%/golden %D%/sampler
TESTS          += %D%/golden %D%/sampler
EXTRA_DIST     += %D%/golden.py
%C%_golden_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
%C%_golden_LDADD  = librepl.la $(CJSON_LIBS) -lm
%C%_sampler_LDADD = librepl.la -lm
