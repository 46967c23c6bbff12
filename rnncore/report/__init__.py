"""The report shows what a model has learnt: what it reads, cell by cell. It reads the engine, which knows nothing of it."""
