"""What has to run: operator graphs, models, importers and traces."""
