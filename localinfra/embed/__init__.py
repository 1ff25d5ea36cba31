"""Texts → vectors and scores, by torch, a graph or llama.cpp. Knows no HTTP."""
