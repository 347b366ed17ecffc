"""The memory hierarchy of a GPU, access by access: L1s in sectors, a sliced L2, translation, memory behind them."""
