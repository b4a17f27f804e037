dist_doc_DATA = %D%/json.md %D%/events.schema.json
EXTRA_DIST += %D%/session-file.md %D%/grammar.md
EXTRA_DIST += %D%/sampling.md %D%/record.py
EXTRA_DIST += %D%/instruments.md %D%/writing-an-instrument.md %D%/topics.jsonl
dist_doc_DATA += %D%/determinism.md %D%/writing-a-backend.md %D%/naive.c
EXTRA_DIST += %D%/compare.md
EXTRA_DIST += %D%/experts.md %D%/experts.py %D%/experts-code.svg %D%/experts-arithmetic.svg %D%/experts-dialogue.svg
EXTRA_DIST += %D%/performance.md
