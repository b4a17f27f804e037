EXTRA_DIST += %D%/session-file.md %D%/grammar.md
