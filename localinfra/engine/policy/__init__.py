"""How much, how many and how far, from seconds observed. Sees no sequence, no batch, no backend."""
