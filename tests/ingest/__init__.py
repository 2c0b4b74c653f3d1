"""Files of facts, made and ingested."""
