"""Traces through one device: what ``offchip trace`` runs, as functions."""
