"""Readers of the official archives: labels from the lists first, then image by image, nothing unpacked to disk."""
