"""Bulk embedding: rows of tables and lines of JSON become Parquet shards of vectors."""
