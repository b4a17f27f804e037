# The core: no terminal, no printf.  Tests link it without the shell.
noinst_LTLIBRARIES += librepl.la
librepl_la_SOURCES = \
  %D%/clock.h \
  %D%/mapped.h %D%/mapped.c \
  %D%/engine.h \
  %D%/engine.c \
  %D%/divergence.h \
  %D%/divergence.c \
  %D%/comparison.h \
  %D%/comparison.c \
  %D%/machine.h \
  %D%/machine.c \
  %D%/measure.h \
  %D%/measure.c \
  %D%/dispatch.h \
  %D%/dispatch.c \
  %D%/session.h \
  %D%/session.c \
  %D%/sampler.h \
  %D%/sampler.c \
  %D%/processors.h \
  %D%/processors.c \
  %D%/filters.h \
  %D%/filters.c \
  %D%/beam.h \
  %D%/beam.c \
  %D%/trace.h \
  %D%/trace.c \
  %D%/spans.h \
  %D%/spans.c \
  %D%/sets.h \
  %D%/sets.c \
  %D%/steer.h \
  %D%/steer_state.h \
  %D%/steer.c \
  %D%/steer_text.c %D%/ablation.h %D%/ablation.c %D%/logit_lens.h %D%/logit_lens.c \
  %D%/timeline.h \
  %D%/timeline.c \
  %D%/stops.h \
  %D%/stops.c \
  %D%/grammar/charset.h \
  %D%/grammar/charset.c \
  %D%/grammar/rules.h \
  %D%/grammar/rules.c \
  %D%/grammar/grammar.h \
  %D%/grammar/grammar.c \
  %D%/grammar/matcher.h \
  %D%/grammar/matcher.c \
  %D%/grammar/constraint.h \
  %D%/grammar/constraint.c \
  %D%/grammar/schema.h \
  %D%/grammar/schema.c \
  %D%/grammar/schema_parts.h \
  %D%/grammar/schema_combine.c \
  %D%/grammar/schema_object.c \
  %D%/grammar/schema_text.c \
  %D%/grammar/schema_regex.c \
  %D%/routing.h \
  %D%/routing.c
librepl_la_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
librepl_la_LIBADD = libtokenizer.la $(CJSON_LIBS) -lm

# The shell over it, all but main: tests link this too.
noinst_LTLIBRARIES += libshell.la
libshell_la_SOURCES = \
  %D%/shell.h \
  %D%/shell.c \
  %D%/input.h \
  %D%/input.c \
  %D%/reply.c \
  %D%/constrain.c \
  %D%/script.c \
  %D%/edit.c \
  %D%/commands.h \
  %D%/commands.c \
  %D%/handlers.h \
  %D%/handlers.c \
  %D%/backends.c \
  %D%/handover.h \
  %D%/handover.c \
  %D%/turns.c \
  %D%/transcript.c \
  %D%/replay.c \
  %D%/atomic.h \
  %D%/atomic.c \
  %D%/save.h \
  %D%/save.c \
  %D%/load.c \
  %D%/store.c \
  %D%/keep.c \
  %D%/batch.h \
  %D%/batch.c \
  %D%/prompts.h \
  %D%/prompts.c \
  %D%/contender.h \
  %D%/contender.c \
  %D%/compare.h \
  %D%/compare.c \
  %D%/compare_show.c \
  %D%/bench.h \
  %D%/bench.c \
  %D%/route.c \
  %D%/steering.c %D%/ablate.h %D%/ablate.c %D%/sweep.c %D%/lens.c \
  %D%/probs.c \
  %D%/dump.c \
  %D%/npy.h \
  %D%/npy.c \
  %D%/help.h \
  %D%/help.c \
  %D%/vars.h \
  %D%/vars.c \
  %D%/idlist.h \
  %D%/idlist.c \
  %D%/instruments.h \
  %D%/instruments.c \
  %D%/cells.h \
  %D%/cells.c \
  %D%/labels.h \
  %D%/labels.c \
  %D%/lend.h \
  %D%/panel.h \
  %D%/panel.c \
  %D%/lend.c \
  %D%/corpus.h \
  %D%/corpus.c \
  %D%/plain.h \
  %D%/plain.c \
  %D%/words.h \
  %D%/words.c \
  %D%/render.h \
  %D%/render.c \
  %D%/line.h \
  %D%/line.c \
  %D%/complete.h \
  %D%/complete.c \
  %D%/signals.h \
  %D%/signals.c \
  %D%/trial.h %D%/trial.c \
  %D%/paths.h \
  %D%/paths.c \
  %D%/text.h \
  %D%/text.c \
  %D%/idset.h \
  %D%/idset.c \
  %D%/routefile.h \
  %D%/routefile.c \
  %D%/atlas.c \
  %D%/heat.h \
  %D%/heat.c \
  %D%/map.h \
  %D%/map.c
libshell_la_CPPFLAGS = $(AM_CPPFLAGS) -DPKGLIBDIR='"$(pkglibdir)"' -DPKGDATADIR='"$(pkgdatadir)"'
libshell_la_CFLAGS = $(AM_CFLAGS) $(READLINE_CFLAGS) $(CJSON_CFLAGS) $(MINIZIP_CFLAGS)
libshell_la_LIBADD = librepl.la libplugins.la libmodel.la libtokenizer.la $(READLINE_LIBS) $(CJSON_LIBS) $(MINIZIP_LIBS)

# the page of /atlas as a string
nodist_libshell_la_SOURCES = %D%/atlas_page.h
BUILT_SOURCES = %D%/atlas_page.h
EXTRA_DIST += %D%/atlas.html
CLEANFILES += %D%/atlas_page.h
%D%/atlas_page.h: $(srcdir)/%D%/atlas.html
	$(AM_V_at)$(MKDIR_P) %D%
	$(AM_V_GEN)sed 's/[\\"]/\\&/g; s/^/"/; s/$$/\\n"/' $(srcdir)/%D%/atlas.html > $@.tmp && mv -f $@.tmp $@

bin_PROGRAMS += dbrx
dbrx_SOURCES = %D%/main.c $(dbrx_tools)
dbrx_tools = \
  %D%/options.h \
  %D%/options.c \
  %D%/manual.c \
  %D%/tools.h \
  %D%/tools.c \
  %D%/recode.h \
  %D%/recode.c \
  %D%/weights.h \
  %D%/weights.c \
  %D%/weights_hf.c \
  %D%/quantize.c \
  %D%/perplexity.c \
  %D%/imatrix.c \
  %D%/compare_tool.c \
  %D%/bench_tool.c \
  %D%/inspect.h \
  %D%/inspect.c \
  %D%/plan.h \
  %D%/plan.c \
  %D%/tokenize.h \
  %D%/tokenize.c \
  %D%/specialists.h \
  %D%/specialists.c \
  %D%/specialists_tool.c \
  %D%/trace_tool.c
dbrx_CPPFLAGS = $(libshell_la_CPPFLAGS)
dbrx_CFLAGS = $(AM_CFLAGS) $(PIE_CFLAGS) $(CJSON_CFLAGS)
dbrx_LDFLAGS = $(AM_LDFLAGS) $(PIE_LDFLAGS)
dbrx_LDADD = libshell.la

# The man page and the completions come from the program's own tables; a program for another
# machine cannot be asked.
if !CROSS_COMPILING
bashcompletiondir = $(datadir)/bash-completion/completions
zshcompletiondir  = $(datadir)/zsh/site-functions
man_MANS = dbrx.1
nodist_bashcompletion_DATA = completions/dbrx
nodist_zshcompletion_DATA  = completions/_dbrx
CLEANFILES += dbrx.1 completions/dbrx completions/_dbrx
dbrx.1: dbrx$(EXEEXT) modules/.stamp
	$(AM_V_GEN)./dbrx$(EXEEXT) --help-man > $@.tmp && mv -f $@.tmp $@
completions/dbrx: dbrx$(EXEEXT)
	$(AM_V_at)$(MKDIR_P) completions
	$(AM_V_GEN)./dbrx$(EXEEXT) --help-completion bash > $@.tmp && mv -f $@.tmp $@
completions/_dbrx: dbrx$(EXEEXT)
	$(AM_V_at)$(MKDIR_P) completions
	$(AM_V_GEN)./dbrx$(EXEEXT) --help-completion zsh > $@.tmp && mv -f $@.tmp $@
endif
