"""Names of the files that one room writes and others read. docs/files.md says what they hold."""

MANIFEST = "manifest.json"
CERTIFICATE = "certificate.json"
RECORDS = "records.jsonl"
METRICS = "metrics.json"
TOKENS = "tokens.jsonl"
FRONT = "front.json"
MERGE = "merge.json"
