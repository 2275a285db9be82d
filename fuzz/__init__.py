"""Coverage-guided fuzzers of everything that reads a file which may come from a stranger: see README.md."""
