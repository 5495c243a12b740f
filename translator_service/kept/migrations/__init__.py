"""The schema of the translators' database, step by step."""
