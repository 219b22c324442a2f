"""Shared-prefix compute: token sequences → tree → packed batches → forward; and generation. Needs torch."""
