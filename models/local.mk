EXTRA_DIST += %D%/nano
