# What people see of steering, ablation and the lens, on terminals
TESTS += %D%/steering.sh
EXTRA_DIST += %D%/steering.sh %D%/steering.py
