EXTRA_DIST += %D%/sampling.md
