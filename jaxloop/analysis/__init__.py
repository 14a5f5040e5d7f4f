"""What is made of a run's tables: cells, statistics, collapse, and which part of it has which cause."""
