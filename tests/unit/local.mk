# --- checkpoint reader
check_PROGRAMS += %D%/checkpoint %D%/checkpoint-hostile %D%/checkpoint-nomem
TESTS += %D%/checkpoint %D%/checkpoint-hostile %D%/checkpoint-nomem
%C%_checkpoint_SOURCES = %D%/checkpoint.c %D%/model_files.h
%C%_checkpoint_LDADD = libmodel.la -lm
%C%_checkpoint_hostile_SOURCES = %D%/checkpoint-hostile.c %D%/model_files.h
%C%_checkpoint_hostile_LDADD = libmodel.la
%C%_checkpoint_nomem_SOURCES = %D%/checkpoint-nomem.c %D%/model_files.h
%C%_checkpoint_nomem_LDADD = libmodel.la
EXTRA_DIST += tests/data

# --- cpu-blas's parts, and the shell's core
check_PROGRAMS += %D%/kernels %D%/core %D%/dequant
TESTS += %D%/kernels %D%/core %D%/dequant
%C%_dequant_LDADD = libgraph.la -lm
%C%_kernels_LDADD = libcpu.la libgraph.la -lm
%C%_core_SOURCES = %D%/core.c %D%/tiny_model.h
%C%_core_LDADD = librepl.la libmodel.la libplugins.la -lm

# --- what is seen on both sides of dlopen, and who sees what
TESTS += %D%/headers.sh %D%/includes.sh %D%/install.sh %D%/hardening.sh
EXTRA_DIST += %D%/headers.sh %D%/includes.sh %D%/install.sh %D%/hardening.sh %D%/elsewhere.c
AM_TESTS_ENVIRONMENT += PKG_CONFIG='$(PKG_CONFIG)' MAKE='$(MAKE)' \
  HARDENED='$(HARDEN_CPPFLAGS) $(HARDEN_CFLAGS) $(HARDEN_LDFLAGS) $(PIE_LDFLAGS)'; export PKG_CONFIG MAKE HARDENED;
# ---- tokenizer
TOK_TESTS = tests/unit/tok_golden tests/unit/tok_text tests/unit/tok_files tests/unit/tok_chat
check_PROGRAMS += $(TOK_TESTS) tests/unit/tokenize-tool
TESTS          += $(TOK_TESTS) %D%/tokenize.sh
EXTRA_DIST     += %D%/tokenize.sh %D%/tok_fixture.h
TOK_TEST_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
TOK_TEST_LIBS   = libtokenizer.la $(CJSON_LIBS)
tests_unit_tok_golden_SOURCES = %D%/tok_golden.c
tests_unit_tok_golden_CFLAGS  = $(TOK_TEST_CFLAGS)
tests_unit_tok_golden_LDADD   = $(TOK_TEST_LIBS)
tests_unit_tok_text_SOURCES   = %D%/tok_text.c
tests_unit_tok_text_CFLAGS    = $(TOK_TEST_CFLAGS)
tests_unit_tok_text_LDADD     = $(TOK_TEST_LIBS)
tests_unit_tok_files_SOURCES  = %D%/tok_files.c
tests_unit_tok_files_CFLAGS   = $(TOK_TEST_CFLAGS)
tests_unit_tok_files_LDADD    = $(TOK_TEST_LIBS)
tests_unit_tok_chat_SOURCES   = %D%/tok_chat.c
tests_unit_tok_chat_CFLAGS    = $(TOK_TEST_CFLAGS)
tests_unit_tok_chat_LDADD     = $(TOK_TEST_LIBS)
tests_unit_tokenize_tool_SOURCES = %D%/tokenize-tool.c repl/tokenize.c repl/tokenize.h repl/plain.c repl/plain.h repl/text.h repl/text.c
tests_unit_tokenize_tool_LDADD   = libmodel.la libtokenizer.la

# --- branches and saved sessions
check_PROGRAMS += %D%/tree
TESTS += %D%/tree
%C%_tree_LDADD = libshell.la -lm

# ---- constrained generation
check_PROGRAMS += %D%/grammar %D%/constraint %D%/schema
TESTS          += %D%/grammar %D%/constraint %D%/schema
tests_unit_grammar_SOURCES = %D%/grammar.c
tests_unit_grammar_CFLAGS  = $(TOK_TEST_CFLAGS)
tests_unit_grammar_LDADD   = librepl.la libtokenizer.la $(CJSON_LIBS)
tests_unit_constraint_SOURCES = %D%/constraint.c
tests_unit_constraint_CFLAGS  = $(TOK_TEST_CFLAGS)
tests_unit_constraint_LDADD   = librepl.la libmodel.la libplugins.la libtokenizer.la $(CJSON_LIBS) -lm
tests_unit_schema_SOURCES = %D%/schema.c %D%/schema_valid.h
tests_unit_schema_CFLAGS  = $(TOK_TEST_CFLAGS)
tests_unit_schema_LDADD   = librepl.la libmodel.la libplugins.la libtokenizer.la $(CJSON_LIBS) -lm

# ---- colours of numbers and kinds
check_PROGRAMS += %D%/heat
TESTS += %D%/heat
%C%_heat_LDADD = libshell.la -lm
# --- sets of tokens, layers, experts
check_PROGRAMS += %D%/sets
TESTS += %D%/sets
%C%_sets_LDADD = librepl.la

# --- steering
check_PROGRAMS += %D%/steer
TESTS += %D%/steer
%C%_steer_SOURCES = %D%/steer.c %D%/plain_forward.h %D%/tiny_model.h
%C%_steer_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
%C%_steer_LDADD = librepl.la libmodel.la libplugins.la $(CJSON_LIBS) -lm

# ---- comparing and measuring
check_PROGRAMS += %D%/divergence
TESTS += %D%/divergence
%C%_divergence_LDADD = librepl.la libmodel.la libplugins.la -lm

# --- ablation
check_PROGRAMS += %D%/ablation
TESTS += %D%/ablation
%C%_ablation_SOURCES = %D%/ablation.c %D%/plain_forward.h %D%/tiny_model.h
%C%_ablation_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
%C%_ablation_LDADD = librepl.la libmodel.la libplugins.la $(CJSON_LIBS) -lm
# --- GGUF, and rows to blocks
check_PROGRAMS += %D%/gguf %D%/quant
TESTS          += %D%/gguf %D%/gguf.sh %D%/quant
EXTRA_DIST     += %D%/gguf.sh
%C%_gguf_LDADD  = libmodel.la
%C%_quant_LDADD = libmodel.la -lm

# --- the logit lens
check_PROGRAMS += %D%/lens
TESTS += %D%/lens
%C%_lens_SOURCES = %D%/lens.c %D%/plain_forward.h %D%/tiny_model.h
%C%_lens_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
%C%_lens_LDADD = librepl.la libmodel.la libplugins.la $(CJSON_LIBS) -lm
