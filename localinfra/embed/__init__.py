"""Texts → vectors and scores, by torch, an exported graph or llama.cpp. No HTTP."""
