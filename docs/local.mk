dist_doc_DATA = %D%/json.md %D%/events.schema.json
EXTRA_DIST += %D%/session-file.md %D%/grammar.md
EXTRA_DIST += %D%/sampling.md
EXTRA_DIST += %D%/compare.md
EXTRA_DIST += %D%/routing.md
