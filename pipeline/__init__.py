"""From BrainWeb labels to HDF5 shards of sinograms and OSEM references; one module per rule."""
