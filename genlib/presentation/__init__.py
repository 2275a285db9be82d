"""The page that shows a lane: templates and their assembly. Needs no torch."""
