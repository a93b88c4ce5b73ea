"""Connectors: places outside whose documents a vector store follows."""
