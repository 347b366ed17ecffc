"""Diffusion transformers from the config files of diffusers: one denoising step, repeated."""

from __future__ import annotations

from workloads.diffusion.config import CLASSES, IMPORTER

__all__ = ["CLASSES", "IMPORTER"]
