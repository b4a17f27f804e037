# The program from outside: as a filter (cli.sh), its JSON and .npy (read.sh), on a
# terminal (terminal.sh).
AM_TESTS_ENVIRONMENT += PYTHON='$(PYTHON)'; export PYTHON;
TESTS += %D%/cli.sh %D%/read.sh %D%/terminal.sh
EXTRA_DIST += %D%/cli.sh %D%/cases.test %D%/read.sh %D%/read.py %D%/terminal.sh %D%/terminal.py
