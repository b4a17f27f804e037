dist_doc_DATA = %D%/json.md %D%/events.schema.json
EXTRA_DIST += %D%/session-file.md %D%/grammar.md
EXTRA_DIST += %D%/sampling.md
EXTRA_DIST += %D%/instruments.md %D%/writing-an-instrument.md %D%/topics.jsonl
dist_doc_DATA += %D%/determinism.md %D%/writing-a-backend.md %D%/naive.c
EXTRA_DIST += %D%/compare.md %D%/gguf.md
