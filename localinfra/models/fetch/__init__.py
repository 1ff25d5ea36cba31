"""Gets models' files: from Hugging Face, Ollama's registry or a URL, resumed and verified.

Owns the network and the writing of files; `pull.py` has the two functions for others. All that a
server answers is untrusted. Loads no model, and no other room opens a connection to the internet.
"""
