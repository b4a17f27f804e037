# The program from outside: as a filter (cli.sh), its JSON and .npy (read.sh), on a
# terminal (terminal.sh).
AM_TESTS_ENVIRONMENT += PYTHON='$(PYTHON)'; export PYTHON;
TESTS += %D%/cli.sh %D%/read.sh %D%/terminal.sh
EXTRA_DIST += %D%/cli.sh %D%/cases.test %D%/read.sh %D%/reader.py %D%/terminal.sh %D%/viewer.py

# ... and its parts from inside
check_PROGRAMS += tests/unit/shell
TESTS += tests/unit/shell
tests_unit_shell_SOURCES = tests/unit/shell.c
tests_unit_shell_CFLAGS = $(AM_CFLAGS) $(CJSON_CFLAGS)
tests_unit_shell_LDADD = libshell.la
