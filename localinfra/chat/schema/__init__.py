"""JSON Schemas of clients → schemas that llguidance knows word by word. Pure; compiles nothing."""
