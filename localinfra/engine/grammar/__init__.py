"""What a choice may say next; with llama/ the only importer of llguidance. Knows no sequence."""
