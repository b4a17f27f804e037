# The sampler and the beam search: against transformers on recorded logits and checkpoints,
# and against naive ones.
check_PROGRAMS += %D%/golden %D%/sampler %D%/beam
TESTS          += %D%/golden %D%/sampler %D%/beam
EXTRA_DIST     += %D%/golden.py %D%/beam.py
%C%_golden_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
%C%_golden_LDADD  = librepl.la $(CJSON_LIBS) -lm
%C%_sampler_LDADD = librepl.la -lm
%C%_beam_CFLAGS   = $(AM_CFLAGS) $(CJSON_CFLAGS)
%C%_beam_LDADD    = librepl.la libmodel.la libplugins.la $(CJSON_LIBS) -lm
