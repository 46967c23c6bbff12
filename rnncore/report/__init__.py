"""The report shows what a model has learnt, cell by cell. It reads the engine, which knows nothing of it."""
