"""Spiking networks on meshes of small cores: spikes tick by tick, and what they ask of cores and links."""
