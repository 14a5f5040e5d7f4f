"""How fast, alone and against others."""
