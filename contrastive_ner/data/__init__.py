"""Annotated text in and out: the record, tag schemes, readers, writers, streams, dictionaries."""
