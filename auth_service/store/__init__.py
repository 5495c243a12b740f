"""What the auth service keeps. Tokens, codes and sessions as SHA-256 only, CloudStack keys encrypted and bound to their
row and account; nothing in a copy of this database opens anything.

One module a concern, `auth_store` puts them together. Every function is one short transaction, so that replicas on one
PostgreSQL agree.
"""
