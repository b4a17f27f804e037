# Strangers' files, failing machines and modules from nowhere, from outside.
TESTS += %D%/abuse.sh %D%/modules.sh
EXTRA_DIST += %D%/abuse.sh %D%/abuse.py %D%/modules.sh %D%/modules.py
