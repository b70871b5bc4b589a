"""Data sets as uint8 tensors in memory, augmentation of whole batches, and seeded batches."""
