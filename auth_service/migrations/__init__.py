"""The schema of the auth service's database, step by step."""
