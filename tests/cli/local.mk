# The program from outside: as a filter (cli.sh), its JSON and .npy (read.sh, json.sh), its man
# page, completions and examples (manual.sh, examples.sh), on a terminal (terminal.sh, typing.sh).
AM_TESTS_ENVIRONMENT += PYTHON='$(PYTHON)'; export PYTHON;
TESTS += %D%/cli.sh %D%/examples.sh %D%/read.sh %D%/json.sh %D%/manual.sh %D%/typing.sh %D%/switching.sh %D%/terminal.sh %D%/compare.sh %D%/weights.sh
EXTRA_DIST += %D%/switching.sh %D%/switcher.py
EXTRA_DIST += %D%/cli.sh %D%/cases.test %D%/read.sh %D%/reader.py %D%/terminal.sh %D%/viewer.py %D%/typing.sh %D%/typist.py \
  %D%/compare.sh %D%/comparer.py %D%/json.sh %D%/events.py %D%/examples.sh %D%/examples.py %D%/manual.sh %D%/weights.sh %D%/weights.py

# ... and its parts from inside
check_PROGRAMS += tests/unit/shell
TESTS += tests/unit/shell
tests_unit_shell_SOURCES = tests/unit/shell.c
tests_unit_shell_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
tests_unit_shell_LDADD = libshell.la
