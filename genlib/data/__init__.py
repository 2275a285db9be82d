"""Where images come from: sources, readers, drawn datasets, processed arrays, batches."""
