"""Programmes of ``torch.export`` (``.pt2`` archives), read without torch."""
