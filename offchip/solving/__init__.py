"""Memory plans with proofs: what ``offchip solve`` runs, as functions."""
