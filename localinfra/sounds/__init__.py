"""Untrusted sound files → samples, within limits of bytes, seconds and memory.

Knows formats and what hostile files do to their decoders; not what the samples are for. WAV is read
here; what has to be decompressed is read in a process of its own, by libsndfile.
"""
