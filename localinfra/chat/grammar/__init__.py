"""Grammars of answers, in llguidance's Lark, around the marks of a model family.

Pure text. `engine/grammar/compiler.py` compiles it; `formats/` parses the answer.
"""
