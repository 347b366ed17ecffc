"""Page caches of operating systems, mapped files, and unified memory of GPUs, page by page."""
