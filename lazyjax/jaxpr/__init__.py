"""All reading of programs: their equations, which rows meet, what depends on what."""
