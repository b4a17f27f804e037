# What experts tokens went to, as people and programs see it: /route, /export route, dbrx trace
# and /atlas, against the golden data and an independent computation.
TESTS += %D%/route.sh %D%/views.sh
EXTRA_DIST += %D%/route.sh %D%/views.sh %D%/files.py %D%/views.py
