"""Durable operations: what a mutation answers with, and the work behind it."""
