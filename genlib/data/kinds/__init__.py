"""One file per kind of source: its official archives and their checksums, or the drawing of them."""
