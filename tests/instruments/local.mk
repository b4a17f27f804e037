# Instruments: their numbers against numpy over /dump's arrays, and those that get things wrong.
TESTS += %D%/statistics.sh %D%/misfits.sh %D%/watching.sh %D%/specialists.sh
EXTRA_DIST += %D%/statistics.sh %D%/statistics.py %D%/wide.py %D%/misfits.sh %D%/misfits.py %D%/misfit.c %D%/watching.sh %D%/watching.py %D%/specialists.sh %D%/specialists.py plugins/example/example.c
