"""Prompts → pictures. Only this package and embed/ import torch. Knows no HTTP."""
