"""Text generation over a `Backend`: no pointers, no HTTP, no chat."""
