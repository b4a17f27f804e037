EXTRA_DIST += %D%/session-file.md
