"""Shared-prefix inference: token sequences → prefix tree → packed batches → forward; and generation. Needs torch."""
