# Strangers' files, failing machines and modules from nowhere, from outside.
TESTS += %D%/abuse.sh
EXTRA_DIST += %D%/abuse.sh %D%/abuse.py
