dist_doc_DATA = %D%/json.md %D%/events.schema.json
