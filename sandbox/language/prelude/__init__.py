"""The text that the interpreter runs before a filter: `assemble` puts it together from the other modules here."""
